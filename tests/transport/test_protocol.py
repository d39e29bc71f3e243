"""The specification is current: its tables, its drawing and its codes are those of the code."""

import re
import subprocess
import sys
from pathlib import Path

from pyf.transport import census, limits
from pyf.transport.frames import FrameType
from pyf.transport.states import SENDERS, Role

ROOT = Path(__file__).resolve().parents[2]
SPEC = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
PACKAGE = Path(limits.__file__).parent
SOURCES = "".join(path.read_text(encoding="utf-8") for path in PACKAGE.glob("*.py"))


def section(number: str) -> str:
    found = re.search(rf"^#+ {re.escape(number)} .*?(?=^##)", SPEC, re.MULTILINE | re.DOTALL)
    assert found
    return found[0]


def test_the_tables_and_the_drawing_are_current():
    done = subprocess.run(
        [sys.executable, ROOT / "docs" / "spec.py"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PYTHONPATH": str(PACKAGE.parents[1])},
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_every_code_is_specified():
    used = set(re.findall(r"""code="(\w+)\"""", SOURCES))
    specified = set(re.findall(r"^\| `(\w+)` \|", section("9.1") + section("9.2"), re.MULTILINE))
    assert used - specified <= {"trailing_data", "second_flow"}
    assert "`trailing_data`" in section("11.")
    assert "`second_flow`" in section("11.")
    breaches = set(re.findall(r"^\| `(\w+)` \|", section("9.1"), re.MULTILINE))
    assert breaches <= used


def test_every_frame_is_specified_with_its_number_and_sender():
    for frame in FrameType:
        senders = [role.value for role in Role if role in SENDERS[frame]]
        sender = "both" if len(senders) > 1 else senders[0]
        assert f"| {frame:#04X} | {frame.name} | {sender} |".replace("0X", "0x") in section("2.2")


def test_the_numbers_are_those_of_the_code():
    for number in (limits.INITIAL_PACKETS, limits.INITIAL_BYTES):
        assert str(number) in section("3.4")
    for name in ("BATCH", "SPARSE_BATCH", "LARGE_BATCH"):
        assert str(getattr(limits, f"{name}_BYTES")) in section("5.3")
    assert str(limits.LARGE) in section("5.3")
    assert str(limits.BATCH_PACKETS) in section("5.3")
    assert f"every {census.SPARSE} bytes" in section("5.3")
    assert f"every {limits.PACKET_SHARE} bytes" in section("4.3")
    assert f"more than {limits.MAX_SKIPPED} skipped" in section("2.3")
    assert f"7 to {limits.MAX_HELLO} |" in section("2.2")
    assert f"9 to {limits.MAX_CONTROL} |" in section("2.2")
    assert f"`max_header` + {limits.HEADER_ROOM} |" in section("2.2")


def test_every_section_that_is_cited_exists():
    for number in re.findall(r"[Ss]ections? (\d+(?:\.\d+)?)", SPEC):
        assert re.search(rf"^##+ {re.escape(number)}[. ]", SPEC, re.MULTILINE), number
