"""Imports go one way, files stay small: the rules that keep the parts apart, read from the source.

kernels, schema <- edgerun <- tools <- tests.
"""
from __future__ import annotations

import ast
import configparser
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LINES, COLUMNS = 600, 100

# The command line is where runtime and tools meet; it loads a tool only when a command needs it.
MAY_USE_TOOLS = ("edgerun/__main__.py",)


def sources(*folders: str, pattern: str = "*.py") -> list[Path]:
    """Return the source files under folders of the checkout."""
    return sorted(path for folder in folders for path in (ROOT / folder).rglob(pattern))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imported(path: Path) -> set[str]:
    """Return every module that a file imports, wherever in the file and in whatever way."""
    package = name_of(path).split("/")[:-1]
    if package[0] == "tools":
        package.insert(0, "edgerun")
    modules: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[:len(package) - node.level + 1] if node.level else []
            base += [node.module] if node.module else []
            modules.update(".".join([*base, alias.name]) for alias in node.names)
        elif isinstance(node, ast.Constant) and re.fullmatch(r"edgerun(\.\w+)+", str(node.value)):
            modules.add(node.value)  # for importlib
    return modules


def belongs(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def outsiders(path: Path, allowed: set[str]) -> set[str]:
    """Return the imported packages that are neither the standard library's nor allowed."""
    return {module.split(".")[0] for module in imported(path)} - sys.stdlib_module_names - allowed


def of_extras(*names: str) -> set[str]:
    """Return the modules that extras install."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    extras = config["options.extras_require"]
    packages = re.sub(r"[<>=]+[\d.]+", "", " ".join(extras[name] for name in names)).split()
    # where they differ from the names; the wheel of MNN has its converter beside it
    modules = {"protobuf": ["google"], "Pillow": ["PIL"], "MNN": ["MNN", "_tools"]}
    return {module for package in packages
            for module in modules.get(package, [package.replace("-", "_")])}


@pytest.mark.parametrize("path", sources("edgerun"), ids=name_of)
def test_runtime(path):
    """The runtime needs NumPy, pyopencl and flatbuffers, and nothing of the tools or the tests."""
    assert outsiders(path, {"edgerun", "numpy", "pyopencl", "flatbuffers"}) == set()
    if name_of(path) not in MAY_USE_TOOLS:
        assert [m for m in imported(path) if belongs(m, "edgerun.tools")] == []


@pytest.mark.parametrize("path", sources("edgerun/ops", "tools"), ids=name_of)
def test_without_opencl(path):
    """Ops describe launches and tools prepare files: neither touches OpenCL."""
    assert [m for m in imported(path) if belongs(m, "pyopencl")] == []


@pytest.mark.parametrize("path", sources("tools"), ids=name_of)
def test_tools(path):
    """Tools use what their extras install; PyTorch is for training, recipes and its own modules."""
    allowed = {"edgerun", "numpy", "flatbuffers"} | of_extras("tools", "verify")
    module = name_of(path).replace("/", ".")
    if belongs(module, "tools.recipes") or belongs(module, "tools.train"):
        allowed.add("torch")
    if module == "tools.pytorch.py":
        allowed |= of_extras("torch")
    if belongs(module, "tools.compare") or belongs(module, "tools.planes"):  # for their plots
        allowed |= of_extras("compare")
    assert outsiders(path, allowed) == set()


def test_no_python_in_kernels_or_schema():
    assert sources("kernels", "schema") == []


@pytest.mark.parametrize(
    "path", sources("edgerun", "tools", "tests") + sources("kernels", pattern="*.cl")
    + sources("schema", pattern="*.fbs"), ids=name_of)
def test_size(path):
    """A file fits into a head, a line on a screen."""
    lines = path.read_text().splitlines()
    assert len(lines) <= LINES
    assert [f"{name_of(path)}:{i}" for i, line in enumerate(lines, 1) if len(line) > COLUMNS] == []
