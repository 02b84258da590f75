"""from_torch() where PyTorch, or what its exporter needs, is not installed."""
from __future__ import annotations

import sys
import types

import pytest

from edgerun.errors import EdgerunError
from edgerun.tools import from_torch


def test_without_pytorch(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(EdgerunError, match=r"PyTorch is not installed.*pip install "
                                           r"'edgerun\[tools,torch\]'"):
        from_torch(object(), object(), tmp_path / "x.edge")


def test_without_the_package_of_the_exporter(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", types.ModuleType("torch"))
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(EdgerunError, match="onnxscript is not installed"):
        from_torch(object(), object(), tmp_path / "x.edge")
