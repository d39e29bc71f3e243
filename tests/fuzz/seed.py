"""Write the corpus from the vectors: one file for each target, a case in hex on each line.

python tests/fuzz/seed.py FOLDER    unpack it, as atheris wants it: one folder for each target
"""

import hashlib
import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
VECTORS = HERE.parent / "vectors"


def load(name: str) -> list[dict[str, str]]:
    return json.loads((VECTORS / f"{name}.json").read_text(encoding="ascii"))


def corpus() -> dict[str, list[bytes]]:
    """What each target begins with."""
    values = [bytes.fromhex(each["hex"]) for each in load("values")]
    batches = [b"\xdd\0\0\0\x01\x81\xa1k" + value for value in values]
    found = {"decoder": values, "batch": batches, "server": [], "client": [], "record": []}
    for case in [*load("breaches"), *load("catalogue")]:
        found[case["to"]].append(b"\xff" + bytes.fromhex(case["hex"]))
    for talk in json.loads((VECTORS / "conversations.json").read_text(encoding="ascii")):
        said = {"client": b"", "server": b""}
        for step in talk["steps"]:
            said[step["from"]] += bytes.fromhex(step["hex"])
        found["server"].append(b"\xff" + said["client"])
        found["client"].append(b"\xff" + said["server"])
        found["record"].append(said["client"])
    for path in sorted((HERE / "corpus").glob("*.hex")):
        found[path.stem] += map(bytes.fromhex, path.read_text(encoding="ascii").split())
    return found


if __name__ == "__main__":
    for target, cases in corpus().items():
        folder = Path(sys.argv[1]) / target
        folder.mkdir(parents=True, exist_ok=True)
        for case in cases:
            (folder / hashlib.sha256(case).hexdigest()[:16]).write_bytes(case)
