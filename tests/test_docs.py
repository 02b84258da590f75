"""Documentation that is generated or that names things must be true."""
from __future__ import annotations

import re
from pathlib import Path

import pytest

from edgerun.ops import OPS
from edgerun.tools import docs

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "schema" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_ops_page_is_current():
    assert (ROOT / "docs" / "ops.md").read_text() == docs.text(), \
        "docs/ops.md is not what 'python -m edgerun.tools.docs' writes"


def test_every_op_says_its_shapes():
    """A docstring that names no tensor shape is no documentation of an op."""
    for code, definition in OPS.items():
        assert re.search(r"\[.*\]", definition.prepare.__doc__ or ""), code
        assert "->" in definition.prepare.__doc__ or "y " in definition.prepare.__doc__, code


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_and_paths_exist(page):
    text = page.read_text()
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        if not link.startswith(("http", "mailto")):
            assert (page.parent / link).exists(), f"{page.name} links to {link}"
    for path in re.findall(r"`((?:edgerun|kernels|schema|tools|tests|docs)/[\w./-]+\.\w+)`", text):
        assert (ROOT / path).exists(), f"{page.name} names {path}"
