"""The memory report as one HTML page that needs nothing else: pictures of the plan, and numbers."""
from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

from edgerun import memory_map, text
from edgerun.memory_map import Block
from edgerun.model import Model
from edgerun.report import MemoryReport

WIDTH, LEFT, RIGHT = 1060, 76, 12  # of the pictures, and their margins
ARENA_HEIGHT, CURVE_HEIGHT, TREE_HEIGHT, FOOT = 360, 150, 300, 26
LETTER = 6.6  # width of a letter of a label
COLORS = {"fp32": "#8fb4de", "fp16": "#8fd0c9", "int32": "#c9ac98", "int16": "#f2da74",
          "int8": "#f7b26a", "uint8": "#f7b26a", "bool": "#cfc8c4", "": "#cfc8c4"}

STYLE = """
:root { color-scheme: light dark; --back: #fff; --ink: #1c1e21; --soft: #6b7075; --line: #d8dbdf; }
@media (prefers-color-scheme: dark) {
  :root { --back: #17191c; --ink: #e8eaed; --soft: #9aa0a6; --line: #3a3d41; } }
body { background: var(--back); color: var(--ink); margin: 2rem auto; max-width: 1060px;
  padding: 0 1rem; font: 15px/1.45 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.1rem; margin: 2rem 0 .3rem; }
p { margin: .2rem 0 .6rem; color: var(--soft); }
svg { width: 100%; height: auto; display: block; } svg text { font: 11px system-ui, sans-serif;
  fill: var(--ink); } svg .soft { fill: var(--soft); } svg .on { fill: #111; pointer-events: none; }
.tiles { display: flex; flex-wrap: wrap; gap: .6rem; margin: 1rem 0; }
.tile { border: 1px solid var(--line); border-radius: 8px; padding: .5rem .9rem; }
.tile b { display: block; font-size: 1.25rem; } .tile span { color: var(--soft); }
.axis { stroke: var(--line); } rect.block { stroke: var(--back); stroke-width: .6; }
rect.block:hover { opacity: .7; }
table { border-collapse: collapse; } td, th { padding: .15rem .8rem .15rem 0; text-align: left; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
th { color: var(--soft); font-weight: 600; } .key { display: inline-block; width: .8em;
  height: .8em; border-radius: 2px; margin: 0 .3em 0 .8em; }
"""


@dataclass(frozen=True)
class Smaller:
    """Another way to pack a model, planned: how, and the bytes of its arena and file."""
    what: str
    arena_bytes: int
    file_bytes: int


def page(model: Model, report: MemoryReport, smaller: Sequence[Smaller] | None = None,
         reductions: Sequence[tuple[str, int]] = ()) -> str:
    """Return the whole HTML page.

    Args:
        model: the file that is described.
        report: of the same file; what it has not measured is left out.
        smaller: what would make it smaller; None where nobody has planned that.
        reductions: what makes the arena small: name, and its bytes without.
    """
    name = escape(text.clean(model.name or model.path))
    parts = [
        f"<h1>Memory of {name}</h1>",
        f"<p>{escape(text.clean(model.path))}, precision {escape(model.precision)}, "
        f"{len(model.ops)} ops</p>",
        _tiles(model, report),
        "<h2>The arena over time</h2>",
        "<p>Each rectangle is a tensor: its height are its bytes, its place on the left the offset "
        "in the arena, its width the ops during which it must exist. Hover for its name.</p>",
        _legend({block.dtype for block in memory_map.blocks(model)}), _arena(model),
        "<h2>Live bytes</h2>",
        "<p>What exists at every op. The highest step is the lower bound: no placement of these "
        "ops in this order needs less.</p>", _curve(model),
        "<h2>Constants in the file</h2>",
        "<p>One field per constant, as large as its bytes, in the color of its type.</p>",
        _legend({constant.dtype for constant in memory_map.constants(model)}), _tree(model),
        *_alternatives(model, smaller, reductions), *_tables(report)]
    return ("<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">"
            "<meta name=\"viewport\" content=\"width=device-width\">"
            f"<title>Memory of {name}</title><style>{STYLE}</style></head>\n<body>\n"
            + "\n".join(parts) + "\n</body></html>\n")


def _tiles(model: Model, report: MemoryReport) -> str:
    plan, planned = model.plan, report.planned
    tiles = [("file, mapped", planned["file_bytes"]), ("arena", plan.arena_bytes),
             ("lower bound", plan.lower_bound_bytes),
             ("arrays of the caller", planned["io_bytes"])]
    if report.allocated:
        tiles.append(("asked of OpenCL", report.allocated["total_bytes"]))
    return "<div class=\"tiles\">" + "".join(
        f"<div class=\"tile\"><b>{text.size(count)}</b><span>{label}</span></div>"
        for label, count in tiles) + "</div>"


def _legend(dtypes: set[str]) -> str:
    keys = [f"<span class=\"key\" style=\"background:{_color(dtype)}\"></span>"
            f"{escape(dtype) or 'scratch'}" for dtype in sorted(dtypes)]
    return "<p>" + "".join(keys) + "</p>"


def _color(dtype: str) -> str:
    return COLORS.get(dtype, COLORS[""])


def _svg(height: float, label: str, body: Sequence[str]) -> str:
    return (f"<svg viewBox=\"0 0 {WIDTH} {height:.0f}\" role=\"img\" aria-label=\"{label}\">"
            + "".join(body) + "</svg>")


def _text(x: float, y: float, shown: str, anchor: str = "start", style: str = "soft") -> str:
    return (f"<text x=\"{x:.1f}\" y=\"{y:.1f}\" text-anchor=\"{anchor}\" class=\"{style}\">"
            f"{escape(shown)}</text>")


def _rect(x: float, y: float, width: float, height: float, dtype: str, title: str,
          label: str) -> str:
    shown = (f"<rect class=\"block\" x=\"{x:.1f}\" y=\"{y:.1f}\" width=\"{max(width, .8):.1f}\" "
             f"height=\"{max(height, .8):.1f}\" rx=\"2\" fill=\"{_color(dtype)}\">"
             f"<title>{escape(title)}</title></rect>")
    letters = int((width - 8) / LETTER)
    if letters >= 4 and height >= 13:
        shown += _text(x + 4, y + height / 2 + 4, text.clean(label, letters), style="on")
    return shown


def _ticks(most: int, height: float, top: float = 0) -> Iterator[str]:
    """Lines and labels of bytes, in four steps."""
    for quarter in range(5):
        y = top + height * (1 - quarter / 4)
        yield (f"<line class=\"axis\" x1=\"{LEFT}\" x2=\"{WIDTH - RIGHT}\" y1=\"{y:.1f}\" "
               f"y2=\"{y:.1f}\"/>")
        yield _text(LEFT - 6, y + 4, text.size(most * quarter / 4), "end")


class _Steps:
    """Horizontal places: before the ops, every op, after the ops."""

    def __init__(self, ops: int):
        self.ops = ops
        self.width = (WIDTH - LEFT - RIGHT) / (ops + 2)

    def at(self, step: int) -> float:
        """Return the left end of an op; -1 is before the first."""
        return LEFT + (step + 1) * self.width

    def labels(self, y: float) -> Iterator[str]:
        """Numbers of some of the ops."""
        each = max(1, round(self.ops / 20))
        for step in range(0, self.ops, each):
            yield _text(self.at(step) + self.width / 2, y, str(step), "middle")


def _describe(model: Model, block: Block) -> str:
    def where(step: int) -> str:
        if step < 0:
            return "the start"
        if step >= len(model.ops):
            return "the end"
        return f"op {step} ({model.ops[step].code})"

    what = f"{block.dtype} {text.shape(block.shape)}" if block.dtype else "scratch"
    return (f"{text.clean(block.name)}: {block.role}, {what}, {text.size(block.bytes)} at byte "
            f"{block.offset}, from {where(block.first)} to {where(block.last)}")


def _arena(model: Model) -> str:
    arena, steps, top = max(model.plan.arena_bytes, 1), _Steps(len(model.ops)), 8
    body = list(_ticks(arena, ARENA_HEIGHT, top))
    for block in memory_map.blocks(model):
        height = block.bytes / arena * ARENA_HEIGHT
        body.append(_rect(
            steps.at(block.first), top + ARENA_HEIGHT * (1 - block.offset / arena) - height,
            (block.last - block.first + 1) * steps.width, height, block.dtype,
            _describe(model, block), block.name))
    body += steps.labels(top + ARENA_HEIGHT + 16)
    return _svg(top + ARENA_HEIGHT + FOOT, "tensors in the arena over time", body)


def _curve(model: Model) -> str:
    plan, live = model.plan, memory_map.live_bytes(model)
    most, steps, top = max(plan.arena_bytes, 1), _Steps(len(model.ops)), 18
    body = list(_ticks(most, CURVE_HEIGHT, top))

    def y(count: float) -> float:
        return top + CURVE_HEIGHT * (1 - count / most)

    path = " ".join(f"L{steps.at(step - 1):.1f},{y(count):.1f} "
                    f"L{steps.at(step):.1f},{y(count):.1f}" for step, count in enumerate(live))
    body.append(f"<path d=\"M{LEFT},{y(0):.1f} {path} L{steps.at(len(live) - 1):.1f},{y(0):.1f} Z\""
                " fill=\"#4c78a8\" fill-opacity=\".35\" stroke=\"#4c78a8\"/>")
    bound = y(plan.lower_bound_bytes)
    body.append(f"<line x1=\"{LEFT}\" x2=\"{WIDTH - RIGHT}\" y1=\"{bound:.1f}\" "
                f"y2=\"{bound:.1f}\" stroke=\"#e45756\" stroke-dasharray=\"5 3\"/>")
    if 0 <= plan.peak_op < len(model.ops):
        op, x = model.ops[plan.peak_op], steps.at(plan.peak_op) + steps.width / 2
        body.append(_text(min(max(x, 260), WIDTH - 260), top - 6,
                          f"lower bound {text.size(plan.lower_bound_bytes)}, met at op "
                          f"{plan.peak_op}: {op.code} {text.clean(op.name, 40)}", "middle"))
        body.append(f"<circle cx=\"{x:.1f}\" cy=\"{bound:.1f}\" r=\"3.5\" "
                    "fill=\"#e45756\"/>")
    body += steps.labels(top + CURVE_HEIGHT + 16)
    return _svg(top + CURVE_HEIGHT + FOOT, "live bytes at every op", body)


def _tree(model: Model) -> str:
    found = sorted(memory_map.constants(model), key=lambda c: -c.bytes)
    if not found:
        return "<p>There are none.</p>"
    body = []
    places = squares([constant.bytes for constant in found], 0, 0, WIDTH, TREE_HEIGHT)
    for constant, (x, y, width, height) in zip(found, places):
        title = (f"{text.clean(constant.name)}: {constant.role} of op {constant.op} "
                 f"({constant.code}), {constant.dtype} {text.shape(constant.shape)}, "
                 f"{text.size(constant.bytes)}")
        body.append(_rect(x, y, width, height, constant.dtype, title, constant.name))
    return _svg(TREE_HEIGHT, "constants by size", body)


def squares(sizes: Sequence[float], x: float, y: float, width: float, height: float
            ) -> list[tuple[float, float, float, float]]:
    """Divide a rectangle into one field per size, as square as possible.

    Source: Bruls, Huizing, van Wijk, "Squarified treemaps", 2000.

    Args:
        sizes: positive, largest first.
        x, y, width, height: of the rectangle.

    Returns:
        (x, y, width, height) of each field.
    """
    total = float(sum(sizes))
    fields: list[tuple[float, float, float, float]] = []
    at = 0
    while at < len(sizes):
        side, scale = min(width, height), width * height / total

        def worst(end: int) -> float:
            row = sum(sizes[at:end]) * scale
            return max(side * side * sizes[at] * scale / row**2,
                       row**2 / (side * side * sizes[end - 1] * scale))

        end = at + 1
        while end < len(sizes) and worst(end + 1) <= worst(end):
            end += 1
        row = sum(sizes[at:end])
        depth, along = row * scale / side, 0.0
        for size in sizes[at:end]:
            length = side * size / row
            fields.append((x, y + along, depth, length) if width >= height
                          else (x + along, y, length, depth))
            along += length
        if width >= height:
            x, width = x + depth, width - depth
        else:
            y, height = y + depth, height - depth
        total -= row
        at = end
    return fields


def _alternatives(model: Model, smaller: Sequence[Smaller] | None,
                  reductions: Sequence[tuple[str, int]]) -> Iterator[str]:
    arena, file = model.plan.arena_bytes, model.file_bytes
    if smaller is not None:
        yield "<h2>What would make it smaller</h2>"
        yield ("<p>Each of these was packed and planned.</p>" if smaller else
               "<p>Nothing that was tried: the alternatives were packed and planned.</p>")
        yield _rows((escape(each.what), f"arena {text.size(each.arena_bytes)}",
                     _change(each.arena_bytes, arena), f"file {text.size(each.file_bytes)}",
                     _change(each.file_bytes, file)) for each in smaller)
    if reductions:
        yield "<h2>What keeps it small</h2>"
        yield "<p>The arena if one of the reductions were switched off.</p>"
        yield _rows((escape(name), f"arena {text.size(count)}", _change(count, arena))
                    for name, count in reductions)


def _change(count: int, now: int) -> str:
    return f"{100 * (count - now) / max(now, 1):+.0f} %"


def _rows(rows: Iterable[Sequence[str]]) -> str:
    return "<table>" + "".join(
        "<tr>" + "".join(f"<td{' class=number' if n else ''}>{cell}</td>"
                         for n, cell in enumerate(row)) + "</tr>" for row in rows) + "</table>"


def _tables(report: MemoryReport) -> Iterator[str]:
    planned = report.planned
    yield "<h2>Planned</h2>"
    yield _table([("model file", planned["file_bytes"]),
                  *((f"constants of {dtype}", count)
                    for dtype, count in planned["segments"].items()),
                  ("arena", planned["arena_bytes"]), ("lower bound", planned["lower_bound_bytes"]),
                  ("input and output arrays (the caller's)", planned["io_bytes"])])
    if report.allocated:
        allocated = report.allocated
        yield "<h2>Allocated</h2>"
        yield (f"<p>Asked of OpenCL, on {escape(allocated['device'])}, "
               f"{escape(allocated['platform'])}. "
               + escape("; ".join(f"{category}: {rung}"
                                  for category, rung in allocated["rungs"].items())) + "</p>")
        yield _table([*allocated["categories"].items(), ("total", allocated["total_bytes"])])
    measured = report.measured
    if measured:
        yield "<h2>Measured</h2>"
        for title, rows in (("PSS of the process, by part", measured.get("parts")),
                            ("the session's part", measured.get("explained"))):
            if rows:
                yield f"<p>{title}</p>"
                yield _table(list(rows.items()))
        yield from (f"<p>{escape(note)}</p>" for note in measured.get("notes", ()))


def _table(rows: Sequence[tuple[str, int]]) -> str:
    return "<table>" + "".join(
        f"<tr><td>{escape(name)}</td><td class=\"number\">{count:,} B</td>"
        f"<td class=\"number\">{text.size(count)}</td></tr>" for name, count in rows) + "</table>"
