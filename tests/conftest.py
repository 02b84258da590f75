"""Every device test runs on every driver the project promises; a missing driver fails."""
from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from edgerun import drivers

# name in test ids -> (words that mean the device, how to install its driver)
PROMISED = {
    "pocl": ("portable computing language", "apt install pocl-opencl-icd"),
    "intel": ("intel opencl", "pip install intel-opencl-rt intel-cmplr-lib-rt"),
    "rusticl": ("rusticl", "apt install mesa-opencl-icd"),
}
# rusticl on llvmpipe is a third implementation, but slow: it runs the integer kernels, which must
# give the same bits everywhere.
SLOW = "rusticl"
os.environ.setdefault("RUSTICL_ENABLE", "llvmpipe")
os.environ["EDGERUN_TUNING"] = "0"  # what this machine tuned must not change what tests build


def _open_all_drivers() -> None:
    """Make the loader see all drivers at once, before pyopencl is imported."""
    if os.environ.get("OCL_ICD_VENDORS"):
        return
    folder = Path(tempfile.mkdtemp(prefix="edgerun-icd-"))
    for driver in drivers.found():
        text = driver.path.read_text() if driver.path.suffix == ".icd" else str(driver.path)
        (folder / f"{driver.name}.icd").write_text(text + "\n")
    os.environ["OCL_ICD_VENDORS"] = str(folder)


_open_all_drivers()


def pytest_addoption(parser):
    parser.addoption("--driver", action="append", choices=sorted(PROMISED),
                     help="test on this driver only (repeatable); default: all that are promised")


def pytest_generate_tests(metafunc):
    if "device" in metafunc.fixturenames:
        everywhere = metafunc.module.__name__.startswith("tests.ops.test_int")
        chosen = metafunc.config.getoption("--driver") or [
            name for name in sorted(PROMISED) if everywhere or name != SLOW]
        metafunc.parametrize("device", chosen, indirect=True, scope="session")


_opened: dict[str, object] = {}


@pytest.fixture(scope="session")
def device(request):
    """An opened Device of the promised driver."""
    name = request.param
    if name not in _opened:
        from edgerun.device import Device
        from edgerun.errors import DeviceError
        words, install = PROMISED[name]
        try:
            _opened[name] = Device(words)
        except DeviceError as error:
            pytest.fail(f"the {name} OpenCL driver is needed for the tests: {install} ({error})")
    return _opened[name]


SHARED = Path(os.environ.get("EDGERUN_SHARED_DATA",
                             Path(__file__).resolve().parents[2] / "shared" / "data"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real models and golden outputs, which is not part of the project."""
    if not (SHARED / "models").is_dir():
        pytest.skip(f"the shared models are not at {SHARED} (set EDGERUN_SHARED_DATA): "
                    "parity with their golden outputs is not checked")
    return SHARED
