"""The status page as HTML: no script, no asset from elsewhere, all that clients sent escaped."""

from __future__ import annotations

import os
from collections.abc import Sequence
from html import escape
from typing import Final

from pyf.station.observe import HISTORY, LiveFlow, Observed, shown, text_of
from pyf.station.server import FlowServer

ROWS: Final = 200
"""Flows that are shown; the page says how many more there are."""

REFRESH: Final = 2
"""Seconds after which a browser asks again."""

_STYLE: Final = """
:root{color-scheme:light dark;--ink:#1d2733;--dim:#66758a;--line:#e3e8ee;--page:#f6f8fa;
--card:#fff;--blue:#2563eb;--fill:#2563eb22;--good:#15803d;--warn:#b45309;--bad:#b91c1c}
@media(prefers-color-scheme:dark){:root{--ink:#e6edf3;--dim:#8b98a8;--line:#2b333d;--page:#0d1117;
--card:#161b22;--blue:#60a5fa;--fill:#60a5fa22;--good:#4ade80;--warn:#fbbf24;--bad:#f87171}}
*{box-sizing:border-box}body{margin:0 auto;max-width:1180px;padding:28px 24px;color:var(--ink);
background:var(--page);font:14px/1.45 system-ui,"Segoe UI",Roboto,"Helvetica Neue",sans-serif}
header{display:flex;align-items:baseline;gap:14px;margin-bottom:18px}h1{font-size:21px;margin:0}
.dim{color:var(--dim)}.pill{border-radius:99px;padding:2px 10px;font-size:12px;font-weight:600;
border:1px solid}.good{color:var(--good)}.warn{color:var(--warn)}.bad{color:var(--bad)}
.cards{display:grid;grid-template-columns:repeat(4,minmax(0,1fr)) minmax(0,2.4fr);gap:12px;
margin-bottom:18px}.card{background:var(--card);border:1px solid var(--line);border-radius:10px;
padding:12px 16px}.card b{display:block;font-size:25px;line-height:1.25;
font-variant-numeric:tabular-nums}.card svg{display:block;width:100%;height:46px;margin-top:4px}
.scroll{background:var(--card);border:1px solid var(--line);border-radius:10px;overflow-x:auto}
table{border-collapse:collapse;width:100%}th,td{padding:8px 12px;text-align:left;
border-bottom:1px solid var(--line);white-space:nowrap}tbody tr:last-child td{border-bottom:0}
th{color:var(--dim);font-size:12px;font-weight:600}.n{text-align:right;
font-variant-numeric:tabular-nums}td.header{font:12px/1.4 ui-monospace,Menlo,Consolas,monospace;
white-space:normal;overflow-wrap:anywhere;min-width:220px;width:40%}meter{width:64px;
vertical-align:middle;margin-right:6px}footer{margin-top:14px;font-size:12px}
@media(max-width:820px){.cards{grid-template-columns:1fr 1fr}.wide{grid-column:1/-1}
header{flex-wrap:wrap}}@media(max-width:1080px){thead{display:none}table,tbody{display:block}
tr{display:grid;grid-template-columns:repeat(3,minmax(0,1fr));gap:8px 12px;padding:12px 16px;
border-bottom:1px solid var(--line)}tr:last-child{border-bottom:0}td,td.n,td.header{display:flex;
flex-flow:column;padding:0;border:0;text-align:left;min-width:0;width:auto;white-space:normal;
overflow-wrap:anywhere}
td:nth-child(2){grid-column:2/-1}td.header,td[colspan]{grid-column:1/-1}
td::before{color:var(--dim);font:12px/1.4 system-ui,sans-serif}meter{order:1}LABELS}
"""
"""On a narrow screen, each flow is a block of its own, whose fields have their columns' names."""

_PAGE: Final = """<!doctype html><html lang=en><meta charset=utf-8><title>PyF.Station</title>
<meta name=viewport content="width=device-width"><meta http-equiv=refresh content={refresh}>
<style>{style}</style><header><h1>PyF.Station</h1><span class="pill {colour}">{state}</span>
<span class=dim>process {process}, which alone is shown here</span></header>
<section class=cards>{cards}<div class="card wide"><span class=dim>{rate:,.0f} packets/s</span>
{history}</div></section>{table}<footer class=dim>Finished: {outcomes}. {messages:,} messages sent
back. Sent is what has come from the client; consumed is what the handler took.</footer></html>
"""

_COLUMNS: Final = (
    ("flow", "n"),
    ("client", ""),
    ("header", ""),
    ("packets/s", "n"),
    ("sent", "n"),
    ("consumed", "n"),
    ("messages", "n"),
    ("age", "n"),
    ("waiting for", ""),
)
_LABELS: Final = "".join(
    f'td:nth-child({number}):not([colspan])::before{{content:"{name}"}}'
    for number, (name, _) in enumerate(_COLUMNS, 1)
)


def page(server: FlowServer, observed: Observed) -> str:
    """Return the page as it is now."""
    flows = observed.flows
    received, consumed, messages = observed.totals
    state, colour = ("draining", "warn") if server.stopping else ("serving", "good")
    stuck = f", <span class=bad>{observed.stuck:,} stuck</span>" if observed.stuck else ""
    cards = (
        (observed.connections, "connections"),
        (
            f"{server.handlers:,} <small class=dim>of {server.max_handlers:,}</small>",
            f"handlers{stuck}",
        ),
        (sum(bool(flow.stalled) for flow in flows), "stalled flows"),
        (f"{received:,}", f"packets sent here, {consumed:,} consumed"),
    )
    outcomes = ", ".join(f"{count:,} {name}" for name, count in sorted(observed.outcomes.items()))
    return _PAGE.format(
        style=_STYLE.replace("LABELS", _LABELS),
        refresh=REFRESH,
        colour=colour,
        state=state,
        process=os.getpid(),
        cards="".join(f"<div class=card><b>{value}</b>{text}</div>" for value, text in cards),
        rate=sum(flow.rate for flow in flows),
        history=sparkline(observed.history, observed.clock()),
        table=_table(flows, observed.clock()),
        outcomes=outcomes or "none yet",
        messages=messages,
    )


def _table(flows: Sequence[LiveFlow], now: float) -> str:
    if not flows:
        return '<div class="card dim">No flow is open.</div>'
    head = "".join(f"<th class={kind or 'l'}>{name}" for name, kind in _COLUMNS)
    rows = "".join(_row(flow, now) for flow in flows[:ROWS])
    more = len(flows) - ROWS
    rest = f"<tr><td colspan={len(_COLUMNS)} class=dim>and {more:,} more</tr>" if more > 0 else ""
    return (
        f"<div class=scroll><table><thead><tr>{head}</thead><tbody>{rows}{rest}</tbody></table>"
        "</div>"
    )


def _row(flow: LiveFlow, now: float) -> str:
    received, consumed, messages = flow.counts
    hint = flow.session.length_hint
    done = f"<meter max={hint} value={min(received, hint)}></meter>" if hint else ""
    cells = (
        flow.number,
        escape(text_of(flow.session.carrier.peer)),
        escape(shown(flow.session.header)) or "<span class=dim>has not come yet</span>",
        f"{flow.rate:,.0f}",
        f"{done}{received:,}",
        f"{consumed:,}",
        f"{messages:,}",
        duration(now - flow.opened),
        _waiting(flow, now),
    )
    kinds = ("header" if name == "header" else kind or "l" for name, kind in _COLUMNS)
    columns = zip(kinds, cells, strict=True)
    return f"<tr>{''.join(f'<td class={kind}>{cell}' for kind, cell in columns)}</tr>"


def _waiting(flow: LiveFlow, now: float) -> str:
    side = flow.session.awaited
    if flow.over:
        return f"<span class=bad>{side}, after {flow.outcome}</span>"
    if flow.stalled:
        return f"<span class=warn>{side}, for {duration(now - flow.moved)}</span>"
    return side


def sparkline(history: Sequence[tuple[float, float]], now: float) -> str:
    """Return packets per second over the last HISTORY seconds as inline SVG, the newest right."""
    width, height = 360, 46
    recent = [(moment, rate) for moment, rate in history if now - moment <= HISTORY]
    top = max((rate for _, rate in recent), default=0.0) or 1.0
    points = []
    before = None
    for moment, rate in recent:
        x, y = width * (1 - (now - moment) / HISTORY), height - 2 - (height - 6) * rate / top
        if before is not None and moment - before > _GAP:
            points += [(width * (1 - (now - before) / HISTORY), height - 2.0), (x, height - 2.0)]
        points.append((x, y))
        before = moment
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    first, last = (points[0][0], points[-1][0]) if points else (0, 0)
    return (
        f'<svg viewBox="0 0 {width} {height}" preserveAspectRatio=none role=img aria-label='
        f'"throughput of the last {HISTORY} seconds"><polygon fill="var(--fill)" points='
        f'"{first:.1f},{height} {line} {last:.1f},{height}"/><polyline fill=none stroke='
        f'"var(--blue)" stroke-width=1.6 vector-effect=non-scaling-stroke points="{line}"/></svg>'
    )


_GAP: Final = 3.0


def duration(seconds: float) -> str:
    """Return a duration in two units at the most, such as ``4 min 05 s``."""
    minutes, rest = divmod(int(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{max(0.0, seconds):.1f} s"
