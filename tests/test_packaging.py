"""What pip installs is what the checkout holds: no forgotten package, kernel or data file."""
from __future__ import annotations

import configparser
import shutil
import subprocess
import sys
import zipfile
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("edgerun", "kernels", "schema", "tools", "tests", "setup.cfg", "pyproject.toml",
           "MANIFEST.in", "README.md", "LICENSE")
DEMO_DATA = "tools/demo_data"
PROFILES = "tools/profiles"


def setup_cfg() -> configparser.ConfigParser:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    return config


def packages_on_disk() -> set[str]:
    found = set()
    for folder, prefix in (("edgerun", ""), ("tools", "edgerun.")):
        for path in (ROOT / folder).rglob("__init__.py"):
            found.add(prefix + ".".join(path.parent.relative_to(ROOT).parts))
    return found


def files(folder: str, root: Path = ROOT) -> set[str]:
    """Return the files under a folder that belong to the project, relative to the checkout."""
    return {path.relative_to(root).as_posix() for path in (root / folder).rglob("*")
            if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc"}


def test_every_package_is_listed():
    """A sub-package that setup.cfg forgets is missing only after installation."""
    listed = set(setup_cfg()["options"]["packages"].split())
    assert listed == packages_on_disk() | {"edgerun.kernels", "edgerun.schema"}


@pytest.mark.parametrize("folder, package, base", [
    ("kernels", "edgerun.kernels", "kernels"), ("schema", "edgerun.schema", "schema"),
    (DEMO_DATA, "edgerun.tools", "tools"),
    (PROFILES, "edgerun.tools.profiles", "tools/profiles")])
def test_every_data_file_matches(folder, package, base):
    patterns = setup_cfg()["options.package_data"][package].split()
    names = {Path(name).relative_to(base).as_posix() for name in files(folder)
             if Path(name).name != "README.md" and not name.endswith(".py")}
    assert names, f"{folder} is empty"
    assert [n for n in sorted(names) if not any(fnmatch(n, p) for p in patterns)] == []


@pytest.mark.parametrize("first", ["edgerun", "edgerun.tools", "edgerun.tools.pack",
                                   "edgerun.tools.importers"])
def test_pack_is_the_function(first, tmp_path):
    """Whatever was imported first, this name is not the module of the same name."""
    script = (f"import sys; sys.path.insert(0, {str(ROOT)!r}); import {first}\n"
              "import edgerun.tools.pack\nfrom edgerun.tools import pack\nprint(callable(pack))")
    assert run(script, tmp_path) == "True\n"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """A wheel built from the source archive, built from a copy so that the checkout stays clean."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "checkout"
    copy.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, copy / name)
    _build("build_sdist", copy, folder)
    archive, = folder.glob("edgerun-*.tar.gz")
    shutil.unpack_archive(archive, folder / "sdist")
    unpacked, = (folder / "sdist").iterdir()
    _build("build_wheel", unpacked, folder)
    return next(folder.glob("edgerun-*.whl"))


def run(script: str, folder: Path) -> str:
    """Run a Python script in a new process inside a folder; returns what it prints."""
    done = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True,
                          text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _build(hook: str, source: Path, out: Path) -> None:
    command = f"from setuptools import build_meta; build_meta.{hook}({str(out)!r})"
    run(command, source)


def test_wheel_contents(wheel):
    """Everything the runtime and the tools need is in the wheel, and nothing else."""
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    copy = wheel.parent / "checkout"
    expected = {name for name in files("edgerun", copy) if name.endswith(".py")}
    expected |= {"edgerun/" + name for name in files("tools", copy) if name.endswith(".py")}
    for folder in ("kernels", "schema", DEMO_DATA, PROFILES):
        expected |= {"edgerun/" + name for name in files(folder, copy)
                     if not name.endswith("README.md")}
    assert names == expected


def test_wheel_finds_its_files(wheel, tmp_path):
    """Unpacked somewhere else, the installed code uses its own kernels, schema, tools and data."""
    zipfile.ZipFile(wheel).extractall(tmp_path)
    script = (f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
              "import edgerun\n"
              "from edgerun._paths import folder\n"
              "import edgerun.flat, edgerun.tools, edgerun.tools.graph\n"
              "from edgerun.tools import demo, profiles\n"
              "assert profiles.load('cpu').facts\n"
              "print(edgerun.__file__, folder('kernels'), folder('schema'),\n"
              "      edgerun.tools.__file__, demo.DATA, sep='\\n')")
    places = run(script, tmp_path).splitlines()
    assert [Path(place).is_relative_to(tmp_path) for place in places] == [True] * 5
