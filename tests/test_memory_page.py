"""The pictures of the memory report: what they draw is what the file plans."""
from __future__ import annotations

import html.parser
import re
import shutil
import subprocess
import tempfile

import numpy as np
import pytest

from edgerun import loader, memory_map, memory_page, memory_picture, report, text
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


# what would make it smaller

def test_page_tells_what_would_make_it_smaller(model):
    found = [memory_page.Smaller("--precision <fp16>", model.plan.arena_bytes // 2, 100)]
    source = memory_page.page(model, report.planned_report(model), found, [("views", 2 ** 20)])
    texts = Page(source).texts
    for shown in ("What would make it smaller", "--precision <fp16>", "-50 %", "file 100 B",
                  "What keeps it small", "views", "arena 1.0 MiB"):
        assert shown in texts, shown
    assert "Nothing that was tried" in memory_page.page(model, report.planned_report(model), [])
    assert "smaller" not in memory_page.page(model, report.planned_report(model))


def convolutions(path):
    """An ONNX model whose first layers have large images, and small weights."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper
    rng, constants, nodes, x = np.random.default_rng(0), [], [], "image"
    for number, (inputs, outputs, stride) in enumerate([(3, 8, 1), (8, 8, 2), (8, 16, 2)]):
        w = (rng.standard_normal((outputs, inputs, 3, 3)) / 5).astype(np.float32)
        constants.append(numpy_helper.from_array(w, f"w{number}"))
        nodes += [helper.make_node("Conv", [x, f"w{number}"], [f"c{number}"], pads=[1] * 4,
                                   kernel_shape=[3, 3], strides=[stride] * 2),
                  helper.make_node("Relu", [f"c{number}"], [f"r{number}"])]
        x = f"r{number}"
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in
              (("image", [1, 3, 64, 64]), (x, [1, 16, 16, 16]))]
    graph = helper.make_graph(nodes, "convolutions", values[:1], values[1:], constants)
    onnx.save(helper.make_model(graph, ir_version=8,
                                opset_imports=[helper.make_opsetid("", 13)]), path)
    return path


@pytest.fixture(scope="module")
def planned_page(tmp_path_factory):
    """The page that `edgerun pack --html` writes, and the file."""
    folder = tmp_path_factory.mktemp("page")
    assert main(["pack", str(convolutions(folder / "m.onnx")), "-o", str(folder / "m.edge"),
                 "--html", str(folder / "page.html")]) == 0
    return folder / "page.html", loader.read(folder / "m.edge")


def test_suggestions_are_planned(planned_page, tmp_path):
    """What the page promises for fp16 is what packing for fp16 gives."""
    from edgerun.tools.pack import pack
    path, model = planned_page
    other = pack(path.parent / "m.onnx", tmp_path / "half.edge", "fp16")
    texts = Page(path.read_text()).texts
    assert other.arena_bytes < model.plan.arena_bytes
    at = texts.index("--precision fp16")
    assert texts[at + 1] == f"arena {text.size(other.arena_bytes)}"
    assert texts[at + 3] == f"file {text.size(other.file_bytes)}"
    assert "--patch auto" in texts and "--precision fp16 --patch auto" in texts


def test_page_is_not_written_over_the_model(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    source = str(convolutions(tmp_path / "m.onnx"))
    assert main(["pack", source, "-o", "x.edge", "--html", str(tmp_path / "x.edge")]) == 1
    assert "needed another path for the page" in capsys.readouterr().err
    assert not (tmp_path / "x.edge").exists()


@pytest.mark.parametrize("precision, calibration, types", [
    ("fp32", None, {"fp16"}), ("fp32", "x.npz", {"fp16", "int16", "int8"}),
    ("fp16", "x.npz", {"int16", "int8"}), ("fp16", None, set()), ("int8", "x.npz", set())])
def test_types_that_are_offered(precision, calibration, types):
    from edgerun.tools.pack import PackReport
    from edgerun.tools.smaller import _alternatives
    packed = PackReport("m.edge", precision, 1, 1, 1, 1, True, 1, 1)
    found = [changed for _, changed in _alternatives({"calibration": calibration}, packed)]
    assert {each["precision"] for each in found if "precision" in each} == types


def chromium(*arguments):
    """Run headless Chromium; skips, and says so, where there is none."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser",
                                                 "google-chrome"))), None)
    if found is None:
        pytest.skip("no Chromium here (apt install chromium): the page is checked as text only, "
                    "not as it looks")
    with tempfile.TemporaryDirectory() as profile:
        done = subprocess.run(
            [found, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
             "--window-size=1200,2400", f"--user-data-dir={profile}", *map(str, arguments)],
            capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr[-500:]
    return done.stdout


def test_page_in_a_browser(planned_page, tmp_path):
    """What a browser draws has colors and labels, among them the peak and the tensors."""
    from PIL import Image
    path, model = planned_page
    source = path.read_text()
    hidden = tmp_path / "hidden.html"
    hidden.write_text(source.replace("</style>", "svg text { visibility: hidden }</style>"))
    images = []
    for number, page in enumerate((path, hidden)):
        chromium(f"--screenshot={tmp_path / f'{number}.png'}", page.as_uri())
        images.append(np.asarray(Image.open(tmp_path / f"{number}.png").convert("RGB"), int))
    colors = {tuple(color) for color in images[0].reshape(-1, 3)}
    assert len(colors) > 50 and tuple(bytes.fromhex(memory_page.COLORS["fp32"][1:])) in colors
    assert (np.abs(images[0] - images[1]).max(2) > 60).sum() > 1000  # letters are drawn
    probe = tmp_path / "probe.html"
    probe.write_text(source.replace("</body>", """<pre id="drawn"></pre><script>
document.getElementById("drawn").textContent = [...document.querySelectorAll("svg text")].filter(
  t => t.getBBox().width > 0 && t.getBBox().x >= 0).map(t => t.textContent).join("|");
</script></body>"""))
    drawn = re.search(r'<pre id="drawn">(.*?)</pre>', chromium("--dump-dom", probe.as_uri()),
                      re.S)[1].split("|")
    assert any("lower bound" in label and f"met at op {model.plan.peak_op}" in label
               for label in drawn), drawn
    names = {block.name for block in memory_map.blocks(model)}
    assert sum(label in names for label in drawn) >= 2, drawn
