"""The ONNX node tests on a device: no test of an op that is called supported may fail."""
from __future__ import annotations

import pytest
from onnx.backend.base import Backend

from edgerun.device import Device
from edgerun.tools.importers.onnx.table import TABLE
from tests import conformance_report as report
from tests.conftest import PROMISED
from tests.onnx_backend import EdgerunBackend, cases, results

# Without a run-time form: they are constants or refused.
HOST_ONLY = {"ConstantOfShape", "Range"}


@pytest.fixture(scope="module")
def one_device(request) -> Device:
    """The first chosen driver: the ops' own tests cover the others."""
    chosen = (request.config.getoption("--driver") or [report.DRIVER])[0]
    return Device(PROMISED[chosen][0])


def described(failed) -> str:
    """Return one line per failure."""
    return "\n".join(f"{r.name}: {r.reason[:500]}" for r in failed)


# The suite has no test of it; tests/tools/test_onnx_signal.py compares it with ONNX Runtime.
NOT_IN_SUITE = {"GlobalLpPool"}


@pytest.mark.parametrize("op", sorted(TABLE.keys() - NOT_IN_SUITE))
def test_supported_op(op, one_device):
    found = results(op, one_device)
    failed = [r for r in found if r.outcome == "failed"]
    assert not failed, described(failed)
    if op not in HOST_ONLY:
        assert any(r.outcome == "passed" for r in found), described(found)


def test_no_other_op_fails(one_device):
    failed = [r for op in cases() if op not in TABLE for r in results(op, one_device)
              if r.outcome == "failed"]
    assert not failed, described(failed)


def test_backend_interface():
    assert issubclass(EdgerunBackend, Backend)
    assert EdgerunBackend.supports_device("CPU")
    assert not EdgerunBackend.supports_device("CUDA")


def test_every_test_of_the_suite_is_counted():
    assert sum(map(len, cases().values())) > 1500
    assert len({test.name for group in cases().values() for test in group}) == sum(
        map(len, cases().values()))


def test_report_is_current(request, one_device):
    written = report.read()
    assert set(written) == set(cases()), f"the ops differ: {report.HOW}"
    if one_device.info.name != Device(PROMISED[report.DRIVER][0]).info.name:
        return
    now = {op: report.counts(results(op, one_device)) for op in cases()}
    assert written == now, f"the numbers differ: {report.HOW}"
