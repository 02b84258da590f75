"""Cut a graph into strips as its user wants: planned with several choices, then changed."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edgerun import model
from edgerun.errors import InputError
from edgerun.tools.graph import Graph, Tensor, copy_of
from edgerun.tools.patch.choose import MOST_EXTRA, STRIPS, Choice, Outline, frontier
from edgerun.tools.patch.rewrite import cut

OFF, AUTO = "off", "auto"
MOST_STRIPS = 256
Names = dict[str, str]  # of a strip -> of the tensor whose rows it has
PLANNED = 2  # choices that are planned to meet a bound, the best by their estimates


@dataclass(frozen=True)
class PatchReport:
    """What runs strip by strip.

    Attributes:
        stages: neighbouring ops that do, in order.
        arena_without_bytes: of the plan without.
        extra_macs: multiply-adds of rows that several strips compute; extra_part: of all those of
            the network.
        extra_ops: how many more ops there are: those of the graph from apply(), which may still
            become views; those of the file in a PackReport.
        streamed: the input arrives in pieces, and never lies in the arena whole.
    """
    stages: list[model.Stage]
    arena_without_bytes: int
    extra_macs: int
    extra_part: float
    extra_ops: int
    streamed: bool


def parse(given: str | int) -> str | int:
    """Return "off", "auto" or a number of strips.

    Raises:
        InputError: it is something else, or no possible number.
    """
    if given in (OFF, AUTO):
        return given
    if isinstance(given, str) and given.isascii() and given.isdigit():
        given = int(given)
    if isinstance(given, bool) or not isinstance(given, int) or not 2 <= given <= MOST_STRIPS:
        raise InputError(f"patch {given!r}: needed off, auto, or a number of strips from 2 to "
                         f"{MOST_STRIPS}")
    return given


def apply(graph: Graph, how: str | int, arena_of: Callable[[Graph, Names], int],
          size_of: Callable[[Tensor], int] = lambda tensor: tensor.bytes,
          most_bytes: int | None = None) -> tuple[PatchReport | None, Names]:
    """Make ops run strip by strip where that lowers the arena for little extra work.

    What is little: of the possible choices, that with the smallest product of arena and work; or,
    with a bound of the arena, that with the least work within it, and none where none is needed.

    Args:
        graph: lowered; changed in place, with a note where nothing is gained.
        how: see parse().
        arena_of: bytes of the arena of a graph, which it may change, with some strips.
        size_of: bytes of a tensor as it will be stored.
        most_bytes: that the arena may have; where that cannot be, it gets as small as it can.

    Returns:
        What runs strip by strip, None where every op runs once; and the strips.
    """
    how = parse(how)
    if how == OFF:
        return None, {}
    outline = Outline(graph, size_of)
    found = outline.candidates(MOST_EXTRA, STRIPS if how == AUTO else (how,))

    def score(choice: Choice, arena: int) -> float:
        work = choice.work / max(outline.total_macs, 1)
        return arena * (1 + work)

    if most_bytes is not None:
        def score(choice: Choice, arena: int) -> tuple[int, int, int]:
            over = max(arena - most_bytes, 0)
            return over, choice.work if not over else 0, arena

    best, without = None, arena_of(copy_of(graph), {})
    if most_bytes is not None and without <= most_bytes:
        return None, {}
    choices = [choice for choice in frontier(outline, found) if choice.stages]
    count = 1 if most_bytes is None else PLANNED
    for choice in sorted(choices, key=lambda c: score(c, c.live_bytes))[:count]:
        arena = choice.live_bytes
        if most_bytes is not None or arena >= without:  # estimates know no outputs in place
            trial = copy_of(graph)
            arena = arena_of(trial, cut_all(trial, choice))
        if arena < without and (best is None or score(choice, arena) < score(*best)):
            best = choice, arena
    if best is None:
        graph.notes.append("patch execution lowers the arena by nothing, with at most "
                           f"{MOST_EXTRA:.0%} more multiply-adds: every op runs once")
        return None, {}
    choice = best[0]
    stages = [model.Stage(graph.ops[stage.first].name, graph.ops[stage.last].name,
                          stage.last - stage.first + 1, stage.strips, stage.streamed)
              for stage in choice.stages]
    names = cut_all(graph, choice)
    graph.patch = model.Patch(tuple(stages), without, choice.extra_macs)
    return PatchReport(stages, without, choice.extra_macs,
                       choice.extra_macs / max(outline.total_macs, 1), choice.extra_ops,
                       any(stage.streamed for stage in stages)), names


def cut_all(graph: Graph, choice: Choice) -> Names:
    """Cut a graph into the strips of a choice, in place; returns them."""
    names: Names = {}
    for stage in reversed(choice.stages):
        names |= cut(graph, stage)
    return names
