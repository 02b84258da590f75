"""The pictures of the memory report: what they draw is what the file plans."""
from __future__ import annotations

import html.parser
import re

import numpy as np
import pytest

from edgerun import loader, memory_map, memory_page, memory_picture, report
from edgerun.__main__ import main
from edgerun.tools import blob, plan as planner
from edgerun.tools.graph import Graph

HOSTILE = "<script>alert('x')</script>&\"\x1b[31m"


def graph() -> Graph:
    """Two branches that meet, with weights, and a name that no page may take literally."""
    rng = np.random.default_rng(0)
    graph = Graph("net")
    x = graph.input("image", (1, 8, 8, 16), "fp32")
    w = graph.constant(rng.normal(size=(16, 1, 1, 16)).astype(np.float32), "w")
    a = graph.add("conv2d", [x, w], HOSTILE)
    b = graph.add("unary", [a], "b", kind="abs")
    graph.output("y", graph.add("binary", [a, b], "sum", kind="add"))
    return graph


@pytest.fixture
def model(tmp_path):
    from edgerun.tools import layout
    built = graph()
    layout.apply(built)
    path = tmp_path / "net.edge"
    path.write_bytes(blob.encode(built, planner.plan(built, {}), {}, "fp32"))
    return loader.read(path)


class Page(html.parser.HTMLParser):
    """Collects the tags and the texts of a page."""

    def __init__(self, source: str):
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in ("meta",):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def test_live_bytes_are_the_sum_of_the_blocks(model):
    live = memory_map.live_bytes(model)
    for step, count in enumerate(live, -1):
        assert count == sum(-(-b.bytes // 64) * 64 for b in memory_map.blocks(model)
                            if b.first <= step <= b.last)
    assert max(live) == model.plan.lower_bound_bytes
    assert live[model.plan.peak_op + 1] == model.plan.lower_bound_bytes


def test_constants_are_those_of_the_file(model):
    found = memory_map.constants(model)
    assert [(c.role, c.bytes, c.op) for c in found] == [("weights", 16 * 16 * 4, 0)]


def test_page_shows_every_tensor(model):
    source = memory_page.page(model, report.planned_report(model))
    page = Page(source)
    assert not page.open and "script" not in page.tags
    assert page.tags.count("svg") == 3
    titles = [t for t in page.texts if " at byte " in t]
    assert len(titles) == len(memory_map.blocks(model)) == 4
    for block in memory_map.blocks(model):
        assert any(f"at byte {block.offset}," in title for title in titles)
    assert "\x1b" not in source
    assert not re.search(r"(src|href)=|@import|url\(", source)  # needs nothing else


def test_fields_fill_the_rectangle():
    """Areas are proportional, inside, and do not overlap."""
    rng = np.random.default_rng(1)
    for count in (1, 2, 7, 60):
        sizes = sorted(rng.integers(1, 10_000, count).tolist(), reverse=True)
        fields = memory_page.squares(sizes, 0, 0, 400, 300)
        for size, (x, y, width, height) in zip(sizes, fields, strict=True):
            assert width * height == pytest.approx(400 * 300 * size / sum(sizes))
            assert -1e-6 <= x <= x + width <= 400 + 1e-6
            assert -1e-6 <= y <= y + height <= 300 + 1e-6
        for i, (x, y, width, height) in enumerate(fields):
            for u, v, other_width, other_height in fields[:i]:
                assert (x + width <= u + 1e-6 or u + other_width <= x + 1e-6
                        or y + height <= v + 1e-6 or v + other_height <= y + 1e-6)


def test_picture_in_the_terminal(model):
    lines = memory_picture.picture(model)
    assert len(lines) == memory_picture.ROWS + 1
    assert lines[-1].count("^") == 1 and "0 B" in lines[-2]
    cells = [line.split("|")[1] for line in lines[:-1]]
    assert cells[-1].strip()  # the lowest bytes are used
    assert {c for line in cells for c in line} <= {" ", *memory_picture.SHADES}


def test_command_writes_the_page(model, tmp_path, capsys):
    out = tmp_path / "memory.html"
    assert main(["memory", model.path, "--no-run", "--html", str(out)]) == 0
    assert "the arena over time" in capsys.readouterr().out
    assert out.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert main(["memory", model.path, "--no-run", "--html", str(tmp_path / "no" / "x.html")]) == 1
    assert "there is no folder" in capsys.readouterr().err
