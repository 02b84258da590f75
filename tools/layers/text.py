"""Where error enters, for a terminal."""
from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from edgerun import text
from edgerun.quantization import TWO_STEPS
from edgerun.tools.layers.measure import Layer, Layers

COARSE = 20  # decibels: an input so far from its integers is not what they were made for
FLOOR = 100  # decibels: a file this near to fp32 has no error worth a sentence
NAMED = 3  # ops in a sentence
# Steps: exact results this near to the middle of two integers may go either way. A kernel that
# rounds to 31 bits first and then to q, whose multiplier is below 2^-s, is 2^-(s + 1) off.
ROUNDED, ROUNDED_TWICE = 0.01, 0.25


def layers_text(found: Layers) -> str:
    """Return a table of all ops, and what it says in a few sentences."""
    header = ["op", "code", "name", "dtypes", "weights", "output", "SNR dB", "change", "own dB",
              "share", "saturated", "steps"]
    if found.source:
        header += ["equal", "apart"]
    rows = [_row(row) + (_source(row) if found.source else ()) for row in found.rows]
    lines = text.table(("", *header), rows, left=(0, 2, 3, 4))
    lines += ["", "SNR: of the output against fp32; change: against the worst input; own: what the "
                  "op adds; share: of what all ops add;",
              "saturated: integers at their end whose value in fp32 lies beyond; steps: largest "
              "error in steps of the output"
              + (f"; equal, apart: integers against {found.source}" if found.source else "")]
    return "\n".join([*lines, *sentences(found)])


def as_dict(found: Layers) -> dict[str, Any]:
    """Return everything that layers_text() prints, as one dict that JSON can hold."""
    return text.plain({"samples": found.samples, "source": found.source,
                       "unmatched": found.unmatched, "summary": sentences(found),
                       "rows": [asdict(row) for row in found.rows]})


def sentences(found: Layers) -> list[str]:
    """Return what the table says: where most of the error enters, what is saturated, and where
    integers begin to differ from those of the source's runtime."""
    lines = []
    marked = found.marked
    worst = [row.snr_db for row in found.rows if row.snr_db is not None]
    if not worst:
        lines.append("nothing was compared: the file and the source model have no tensor in common")
    elif not marked or min(worst) >= FLOOR:
        lines.append(f"no op is further from fp32 than {text.number(min(worst))} dB")
    else:
        lines.append("most of the error enters at " + ", ".join(
            f"{_named(row)} ({row.share:.0%} of what all ops add, own SNR "
            f"{text.number(row.own_db)} dB)" for row in marked[:NAMED])
            + (f", and {_count(len(marked) - NAMED, 'more op')} marked *"
               if len(marked) > NAMED else ""))
    coarse = [row for row in found.rows if row.index < 0 and row.snr_db is not None
              and row.max_steps is not None and row.snr_db < COARSE]
    lines += [f"the input {text.clean(row.name)!r} is not of the range that its integers have: "
              "inputs like those of the calibration (--inputs) tell more" for row in coarse]
    saturated = [row for row in found.rows if row.saturated]
    if saturated:
        row = max(saturated, key=lambda row: (row.saturated / row.elements, row.max_steps))
        lines.append(f"integers saturate at {_count(len(saturated), 'op')}, most at {_named(row)}: "
                     f"{row.saturated:,} of {row.elements:,} elements "
                     f"({row.saturated / row.elements:.2%})")
    if found.unmatched:
        lines.append(f"{_count(found.unmatched, 'tensor')} of the file have no equal in fp32 to "
                     "compare with")
    return lines + _differences(found)


def _differences(found: Layers) -> list[str]:
    if not found.source:
        return []
    first = found.first_difference
    compared = sum(row.source_equal is not None for row in found.rows)
    if first is None:
        return [f"all integers of {_count(compared, 'tensor')} are those of {found.source}"]
    line = (f"integers begin to differ from {found.source} at {_named(first)}: "
            f"{1 - first.source_equal:.3%} of them, by at most "
            f"{_count(first.source_steps, 'step')}")
    if first.tie_steps is None:
        return [line]
    near = (f"where they do, the exact result is at most {first.tie_steps:.4f} steps from the "
            "middle between two integers")
    twice = first.rounding in TWO_STEPS
    if first.source_steps > 1 or first.tie_steps > (ROUNDED_TWICE if twice else ROUNDED):
        return [f"{line}; {near}: it is more than rounding"]
    return [f"{line}; {near}: it is rounding" + (
        f" ({found.source} rounds twice)" if first.tie_steps > ROUNDED else "")]


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")


def _named(row: Layer) -> str:
    where = "" if row.index < 0 else f", op {row.index}"
    return f"{row.code} {text.clean(row.name, text.CUT)!r}{where}"


def _row(row: Layer) -> tuple:
    dtypes = row.writes if row.reads == row.writes else f"{row.reads} -> {row.writes}"
    return ("*" if row.marked else "", row.index if row.index >= 0 else "", row.code, row.name,
            dtypes, f"{row.weight_bytes:,}" if row.weight_bytes else "", f"{row.output_bytes:,}",
            _decibels(row.snr_db), "" if row.change_db is None else f"{row.change_db:+.1f}",
            _decibels(row.own_db), "" if row.share is None else f"{row.share:.1%}",
            f"{row.saturated:,}" if row.saturated else "",
            "" if row.max_steps is None else text.number(row.max_steps))


def _source(row: Layer) -> tuple:
    if row.source_equal is None:
        return "", ""
    return f"{row.source_equal:.3%}", row.source_steps


def _decibels(value: float | None) -> str:
    if value is None:
        return ""
    return "exact" if value == math.inf else f"{value:.1f}"


__all__ = ["as_dict", "layers_text", "sentences"]
