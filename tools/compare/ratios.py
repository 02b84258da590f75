"""Ratios between measured results, by rounds: above 1 edgerun is faster."""
from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgerun.tools.compare.measure import Result

BEST = "best"  # of the devices, for each model


@dataclass(frozen=True)
class Ratio:
    """How much longer a peer takes than edgerun.

    Attributes:
        model, precision: of edgerun's.
        device: of edgerun's; BEST for the one that is fastest on this model.
        peer: a runtime, or "edgerun PRECISION": the same device in another precision.
        value: median over the rounds of (peer's time / edgerun's time).
        low, high: its quartiles.
    """
    model: str
    precision: str
    device: str
    peer: str
    value: float
    low: float
    high: float

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as a dict."""
        return dict(vars(self))


def ratio_of(peer: Result, own: Result) -> tuple[float, float, float]:
    """Return the median and the quartiles of the rounds' ratios peer / own."""
    count = min(len(peer.turns_ns), len(own.turns_ns))
    rounds = np.array(peer.turns_ns[:count]) / np.array(own.turns_ns[:count])
    low, median, high = np.percentile(rounds, (25, 50, 75))
    return float(median), float(low), float(high)


def _of_model(results: Sequence[Result]) -> list[Ratio]:
    good = [r for r in results if not r.error and r.turns_ns]
    own = [r for r in good if r.runtime == "edgerun"]
    found: list[Ratio] = []
    for precision in dict.fromkeys(r.precision for r in own):
        same = [r for r in own if r.precision == precision]
        best = min(same, key=lambda r: r.median_ns)
        chosen = [(r.device or "", r) for r in same]
        if len(same) > 1:
            chosen.append((BEST, best))
        for device, mine in chosen:
            others = [(r.runtime, r) for r in good
                      if r.runtime != "edgerun" and r.precision == precision]
            if precision != "fp32":
                others += [("edgerun fp32", r) for r in own
                           if r.precision == "fp32" and r.device == mine.device]
            found += [Ratio(mine.model, precision, device, name, *ratio_of(r, mine))
                      for name, r in others]
    return found


def ratios(results: Sequence[Result]) -> list[Ratio]:
    """Return every ratio of edgerun to a peer of the same precision, and to its own fp32."""
    return [ratio for model in dict.fromkeys(r.model for r in results)
            for ratio in _of_model([r for r in results if r.model == model])]


def geometric_mean(values: Iterable[float]) -> float:
    """Return the geometric mean."""
    values = list(values)
    return math.exp(sum(map(math.log, values)) / len(values))


def summary(found: Sequence[Ratio]) -> list[dict[str, Any]]:
    """Return the geometric mean and the smallest of the ratios, per precision, peer and device."""
    groups: dict[tuple[str, str, str], list[Ratio]] = {}
    for ratio in found:
        groups.setdefault((ratio.precision, ratio.peer, ratio.device), []).append(ratio)
    return [{"precision": precision, "peer": peer, "device": device, "models": len(group),
             "geometric_mean": geometric_mean(r.value for r in group),
             "smallest": min(r.value for r in group),
             "smallest_model": min(group, key=lambda r: r.value).model}
            for (precision, peer, device), group in groups.items()]
