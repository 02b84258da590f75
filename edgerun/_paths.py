"""Where kernels/ and schema/ are: inside the installed package, or beside it in a checkout."""
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def folder(name: str) -> Path:
    """Return the folder `name` ("kernels" or "schema").

    Raises:
        FileNotFoundError: neither place has it; the installation is incomplete.
    """
    for parent in (_PACKAGE, _PACKAGE.parent):
        if (parent / name).is_dir():
            return parent / name
    raise FileNotFoundError(
        f"{name}/ is neither in {_PACKAGE} nor in {_PACKAGE.parent}: reinstall edgerun")
