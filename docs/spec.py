"""What protocol.md takes from the code: the state tables, and the drawing of one call.

docs/spec.py            fail if they are not current
docs/spec.py --write    make them current
"""

import sys
from collections.abc import Mapping
from enum import Enum
from html import escape
from pathlib import Path
from typing import Any

from pyf.transport.frames import FrameType
from pyf.transport.states import CONNECTION_MOVES, FLOW_MOVES, ConnectionState, FlowState

HERE = Path(__file__).resolve().parent
SPEC = HERE / "protocol.md"
DRAWING = HERE / "one-call.svg"
END = "<!-- end of states -->"

# One call: who says what, and what it means.
STEPS = (
    ("client", "HELLO", "versions 1 to 1, limits, windows"),
    ("client", "OPEN 1", "header {action: import}"),
    ("client", "DATA 1", "packets 0 to 511, under the initial credit"),
    ("server", "HELLO", "version 1, limits, windows"),
    ("client", "DATA 1", "packets 512 to 20000"),
    ("server", "MESSAGE 1", "message 0 {type: info}"),
    ("server", "CREDIT 1", "16384 consumed; limits in packets and in bytes"),
    ("client", "END 1", "20001 packets: nothing is missing"),
    ("server", "RESULT 1", "success, its value; 20001 consumed, 1 message"),
)
WIDTH, TOP, STEP = 640, 96, 42
LINES = {"client": 80, "server": WIDTH - 80}


def table(states: type[Enum], moves: Mapping[tuple[Any, FrameType], Enum]) -> str:
    """One row per frame, one column per state in which some frame is legal."""
    columns = [state for state in states if any(key[0] is state for key in moves)]
    rows = [["frame", *(state.value for state in columns)], ["---"] * (len(columns) + 1)]
    for frame in FrameType:
        cells = [moves.get((state, frame)) for state in columns]
        if any(cells):
            rows.append([frame.name, *(cell.value if cell else "" for cell in cells)])
    return "".join(f"| {' | '.join(row)} |\n".replace("  ", " ") for row in rows)


def replaced(text: str, name: str, new: str) -> str:
    """Return *text* with *new* between the marks of *name*."""
    begin = f"<!-- {name} states, written by docs/spec.py --write -->\n"
    before, rest = text.split(begin)
    _, after = rest.split(END, 1)
    return f"{before}{begin}\n{new}\n{END}{after}"


def spec(text: str) -> str:
    """Return the specification with current tables."""
    text = replaced(text, "connection", table(ConnectionState, CONNECTION_MOVES))
    return replaced(text, "flow", table(FlowState, FLOW_MOVES))


START = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">
<title>One call: the frames between client and server, from HELLO to RESULT</title>
<style>
text {{ font: 13px system-ui, sans-serif; text-anchor: middle }}
line {{ stroke: #334 }}
</style>
<marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto">
<path d="M0,0 L8,4 L0,8 z" fill="#334"/></marker>
<rect width="{width}" height="{height}" rx="8" fill="#fff"/>
"""
LIFELINE = """\
<line x1="{x}" y1="48" x2="{x}" y2="{bottom}" stroke-dasharray="4 4"/>
<rect x="{left}" y="16" width="90" height="32" rx="6" fill="#e8eefc" stroke="#334"/>
<text x="{x}" y="37">{name}</text>
"""
ARROW = """\
<line x1="{start}" y1="{y}" x2="{end}" y2="{y}" marker-end="url(#tip)"/>
<text x="{middle}" y="{above}"><tspan font-weight="bold">{frame}</tspan> {meaning}</text>
"""


def drawing() -> str:
    """Return the sequence of one call as SVG."""
    height = TOP + STEP * len(STEPS)
    parts = [START.format(width=WIDTH, height=height)]
    for name, x in LINES.items():
        parts.append(LIFELINE.format(name=name, x=x, left=x - 45, bottom=height - 12))
    for y, (sender, frame, meaning) in zip(range(TOP, height, STEP), STEPS, strict=True):
        start, end = LINES[sender], sum(LINES.values()) - LINES[sender]
        middle = WIDTH // 2
        text = {"frame": escape(frame), "meaning": escape(meaning)}
        parts.append(ARROW.format(start=start, end=end, y=y, above=y - 7, middle=middle, **text))
    return "".join([*parts, "</svg>\n"])


def main() -> int:
    """Check or write both files."""
    current = {SPEC: spec(SPEC.read_text(encoding="utf-8")), DRAWING: drawing()}
    if sys.argv[1:] == ["--write"]:
        for path, text in current.items():
            path.write_text(text, encoding="utf-8")
        return 0
    stale = [
        path.name
        for path, text in current.items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    for name in stale:
        sys.stderr.write(f"docs/{name} is not current: docs/spec.py --write\n")
    return bool(stale)


if __name__ == "__main__":
    sys.exit(main())
