"""What the kernel says this process occupies: Linux's /proc/self/smaps."""
from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path

PROC = Path("/proc/self")


@dataclass(frozen=True)
class Memory:
    """Physical memory in bytes.

    Attributes:
        pss_bytes: proportional set size: a page shared by n processes counts 1/n. The fair total.
        private_dirty_bytes: written by this process only; cannot be dropped without swap.
        anonymous_bytes: not backed by a file: heaps, stacks, buffers.
        file_bytes: pss of pages that a file backs; clean ones can be dropped and read again.
    """
    pss_bytes: int
    private_dirty_bytes: int
    anonymous_bytes: int
    file_bytes: int

    def as_dict(self) -> dict[str, int]:
        """Return the fields as a dict."""
        return asdict(self)


def _fields(lines: list[str]) -> dict[str, int]:
    """Sum the "Name:  123 kB" lines, in bytes."""
    sums: dict[str, int] = {}
    for line in lines:
        name, _, rest = line.partition(":")
        words = rest.split()
        if len(words) == 2 and words[1] == "kB" and words[0].isdigit():
            sums[name] = sums.get(name, 0) + int(words[0]) * 1024
    return sums


def _memory(fields: dict[str, int]) -> Memory:
    pss, anonymous = fields["Pss"], fields.get("Anonymous", 0)
    # kernels before 5.8 do not split Pss; what is not anonymous is backed by a file
    file_bytes = fields.get("Pss_File", max(0, pss - fields.get("Pss_Anon", anonymous)))
    return Memory(pss, fields.get("Private_Dirty", 0), anonymous, file_bytes)


def process(proc: Path = PROC) -> Memory | None:
    """Return what this process occupies now; None where the platform does not tell."""
    for name in ("smaps_rollup", "smaps"):  # the first is cheaper, and came with Linux 4.14
        try:
            fields = _fields((proc / name).read_text().splitlines())
        except OSError:
            continue
        if "Pss" in fields:
            return _memory(fields)
    return None


def mapping(path: str | os.PathLike, proc: Path = PROC) -> Memory | None:
    """Return what the mappings of one file occupy in this process; None where it is not known."""
    try:
        wanted = os.path.realpath(path)
        lines = (proc / "smaps").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return None
    inside, kept = False, []
    for line in lines:
        head = line.split(None, 5)
        if not head[0].endswith(":"):  # "55d0-55e0 r--p 00000000 08:01 1234   /path"
            inside = len(head) == 6 and head[5] == wanted
        elif inside:
            kept.append(line)
    fields = _fields(kept)
    return _memory(fields) if "Pss" in fields else None


def _status(name: str, proc: Path) -> int:
    """Return a line of /proc/self/status, in bytes; 0 where it is missing."""
    try:
        return _fields((proc / "status").read_text().splitlines()).get(name, 0)
    except OSError:
        return 0


def resident(proc: Path = PROC) -> int:
    """Return the resident memory of this process in bytes, whoever shares it; 0 if unknown."""
    return _status("VmRSS", proc)


def peak(proc: Path = PROC) -> int:
    """Return the highest resident memory since forget_peak(), in bytes; 0 if unknown."""
    return _status("VmHWM", proc)


def forget_peak(proc: Path = PROC) -> bool:
    """Let peak() begin anew; returns whether the platform can."""
    try:
        (proc / "clear_refs").write_text("5")
    except OSError:
        return False
    return True


def gpu_bytes(proc: Path = PROC) -> int | None:
    """Return what the kernel's GPU driver holds for this process; None if it does not tell.

    Linux's DRM drivers list their clients in /proc/self/fdinfo (Documentation/gpu/
    drm-usage-stats.rst); one client may be open under several file descriptors.
    """
    clients: dict[str, int] = {}
    try:
        descriptors = list((proc / "fdinfo").iterdir())
    except OSError:
        return None
    for descriptor in descriptors:
        try:
            lines = descriptor.read_text(errors="replace").splitlines()
        except OSError:
            continue  # closed meanwhile
        pairs = dict(line.split(":", 1) for line in lines
                     if line.startswith("drm-") and ":" in line)
        if "drm-client-id" in pairs:
            client = f"{pairs.get('drm-pdev', '')} {pairs['drm-client-id']}"
            clients[client] = _client_bytes(pairs)
    return sum(clients.values()) if clients else None


def _client_bytes(pairs: dict[str, str]) -> int:
    """Sum the memory regions of one client, by the best key that its driver fills."""
    for prefix in ("drm-resident-", "drm-memory-", "drm-total-"):
        values = [value.split() for key, value in pairs.items() if key.startswith(prefix)]
        if values:
            units = {"KiB": 1024, "MiB": 1 << 20}
            return sum(int(words[0]) * units.get(words[-1], 1) for words in values
                       if words and words[0].isdigit())
    return 0
