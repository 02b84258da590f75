"""One launch for many: a program that holds the kernels of a chain of launches and runs them all.

On a CPU the time between launches is a large part of small models. The chain is one kernel of as
many work-groups of one work-item as there are cores. Each walks over the launches; of every launch
the work-groups take tiles (work-items one after the other), first those of their own share, and all
wait until the last tile of a launch is done before they start the next. Only who runs a tile is
waited for, so work-groups that start late, or never, delay nobody. The launches of experts that are
not chosen are left out by all work-groups alike: the host need not read the choice in between.

The text of the program is put together here from kernels/*.cl: every variant (family, kernel,
defines) once, as a function whose names get the number of the variant. Numbers are in a table of
ints, one row a launch.
"""
from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from edgerun.mixture import Choosing
from edgerun.ops import Launch
from edgerun.programs import source

FAMILY, KERNEL = "chain", "chain"
BUFFERS = 8  # parameters of the kernel for the arena and segments
LINE = 32  # ints that no two counters share: two cache lines, since CPUs fetch them in pairs
HEAD = 7  # ints of a row before the arguments, see kernels/chain.cl
COUNTERS = 3  # beside one for each work-group: tiles done; work-groups through; where it stopped
TILES = 4  # of a launch and work-group, at most: what is left at the end is waited for

_KERNEL = re.compile(r"^(__attribute__\(\([^\n]*\)\)\n)?__kernel void (\w+)\((.*?)^\}$",
                     re.M | re.S)
_COMMENT = re.compile(r"^ *//.*", re.M)
_MACRO = re.compile(r"^[ \t]*#[ \t]*define[ \t]+(\w+)", re.M)
_TYPE = re.compile(r"^typedef .*?(\w+)(?: __attribute__\(\(.*\)\))?;$", re.M)
_FUNCTION = re.compile(r"^(?!typedef)[A-Za-z]\w*(?:\([\w, ]*\))? \*?([A-Za-z]\w*)\(", re.M)
_GENERATED = re.compile(r"^DEFINE_\w+\((\w+), (\w+)", re.M)
_BUILT_IN = re.compile(r"(?:float|int|char|uchar|short|ushort|uint|half)\d*")


@dataclass(frozen=True)
class Table:
    """The numbers of a chain. Places are those of ints among them.

    Attributes:
        ints: int32: counters, what the mixtures have chosen, rows.
        row: ints of a row.
        starts: of each launch, and of the end: the place of its row, or of the one in front that
            chooses whether it runs.
        stopped: the place of the row, counted from the first one of a command, at which the chain
            has stopped, or -1.
        kept: of each mixture the place of what was chosen; -1 before.
        cold: of each mixture and expert the place of the flag that stops the chain.
    """
    ints: np.ndarray
    row: int
    starts: list[int]
    stopped: int
    kept: list[int]
    cold: list[list[int]]

    def mixture_at(self, row: int) -> int:
        """Return the number of the mixture at one of whose flags a row begins."""
        return next(n for n, flags in enumerate(self.cold) if row + HEAD in flags)


@dataclass(frozen=True)
class Chain:
    """The text of a chain and its numbers.

    Attributes:
        text: OpenCL C behind no other text.
        defines: of all variants together; they decide on the build options.
        variants: number of different kernels.
        table: the numbers.
    """
    text: str
    defines: dict
    variants: int
    table: Table


def _kind(arg) -> str:
    """The name in OpenCL C of the type of an argument; a tensor and scratch are "buffer"."""
    if isinstance(arg, np.ndarray):
        return ("int" if arg.dtype == np.int32 else "float") + str(arg.size)
    return {np.int32: "int", np.uint32: "uint", np.float32: "float"}.get(type(arg), "buffer")


def _words(arg, place) -> list[int]:
    if _kind(arg) == "buffer":
        return list(place(arg))
    return np.atleast_1d(arg).view(np.int32).tolist()


def make(launches: Sequence[Launch], place, groups: int, mixtures: Sequence[Choosing] = ()
         ) -> Chain:
    """Put a chain together.

    Args:
        launches: in order.
        place: tensor or Scratch of a launch's arguments, its number -> (number of its buffer, byte
            offset as int32).
        groups: work-groups that will run it.
        mixtures: those whose experts the chain chooses.
    """
    numbers: dict[tuple, int] = {}
    sections, cases, defines, rows = [], [], {}, []
    for at, launch in enumerate(launches):
        kinds = tuple(map(_kind, launch.args))
        key = (launch.family, launch.kernel, tuple(sorted(launch.defines.items())), kinds)
        if key not in numbers:
            numbers[key] = number = len(numbers)
            sections.append(_section(launch, number))
            cases.append(_case(kinds, number))
            defines |= launch.defines
        size = [*launch.global_size, 1, 1][:3]
        items = size[0] * size[1] * size[2]
        tile = max(1, -(-items // (TILES * groups)))
        rows.append([numbers[key], *size, tile, -(-items // tile), 1,
                     *_arguments(launch, lambda a: place(at, a))])
    if mixtures:
        cases += [f"case {len(numbers) + n}: {{ {name}; break; }}"
                  for n, name in enumerate(("CHOOSE", "EXPERT"))]
    text = "\n".join([*sections, source(FAMILY, {
        "LINE": LINE, "HEAD": HEAD, "CASES": " ".join(cases)})])
    return Chain(text, defines, len(numbers), _table(rows, place, groups, mixtures, len(numbers)))


def table_bytes(launches: Sequence[Launch], groups: int, mixtures: Sequence[Choosing]) -> int:
    """Return the bytes of the numbers of a chain."""
    rows = [[0] * HEAD + _arguments(launch, lambda a: (0, 0)) for launch in launches]
    return _table(rows, lambda at, arg: (0, 0), groups, mixtures, 0).ints.nbytes


def _arguments(launch: Launch, place) -> list[int]:
    """The ints of a row behind its head."""
    return [word for arg in launch.args for word in _words(arg, place)]


def _table(launches: Sequence[list[int]], place, groups: int, mixtures: Sequence[Choosing],
           variants: int) -> Table:
    """The rows of launches, and of mixtures between them: their variants follow the others."""
    stopped = LINE * (groups + COUNTERS - 1)
    ends = [stopped + LINE]
    for mixture in mixtures:
        ends.append(ends[-1] + mixture.batch * mixture.k)
    routes = {mixture.route: n for n, mixture in enumerate(mixtures)}
    experts = {span.start: (n, expert) for n, mixture in enumerate(mixtures)
               for expert, span in enumerate(mixture.experts)}
    back = {span.stop - 1: -len(span) for mixture in mixtures for span in mixture.experts}
    rows, starts, flags = [], [], [[] for _ in mixtures]
    for at, row in enumerate(launches):
        starts.append(len(rows))
        if at in experts:
            n, expert = experts[at]
            mixture = mixtures[n]
            number, offset = place(at, mixture.chosen if mixture.slots is None else mixture.slots)
            flags[n].append(len(rows))
            rows.append([variants + 1, 1, 1, 1, 1, int(mixture.batch > 1), 1,
                         0, ends[n], mixture.batch, mixture.k, expert,
                         len(mixture.experts[expert]) + 1, number, offset + 4 * expert])
        rows.append([*row[:HEAD - 1], back.get(at, 1), *row[HEAD:]])
        if at in routes:
            n = routes[at]
            rows.append([variants, 1, 1, 1, 1, 1, 1, *place(at, mixtures[n].chosen),
                         ends[n + 1] - ends[n], ends[n]])
    width = max(map(len, rows))
    ints = [0] * ends[0] + [-1] * (ends[-1] - ends[0])
    ints += [word for row in rows for word in row + [0] * (width - len(row))]
    return Table(np.array(ints, np.int64).astype(np.uint32).view(np.int32), width,
                 [ends[-1] + width * row for row in (*starts, len(rows))], stopped, ends[:-1],
                 [[ends[-1] + width * row + HEAD for row in held] for held in flags])


def _case(kinds: Sequence[str], number: int) -> str:
    """The case of the switch that unpacks the arguments of a variant and runs its tiles."""
    unpack, names, at = [], [], 0
    for index, kind in enumerate(kinds):
        name = f"a{index}"
        if kind == "buffer":
            unpack.append(f"__global uchar *const {name} = buffers[arg[{at}]];"
                          f" const uint {name}_at = arg[{at + 1}];")
            names += [name, f"{name}_at"]
            at += 2
            continue
        lanes = int(kind.lstrip("uintfloa") or 1)
        load = f"arg[{at}]" if lanes == 1 else f"vload{lanes}(0, arg + {at})"
        unpack.append(f"const {kind} {name} = as_{kind}({load});")
        names.append(name)
        at += lanes
    return (f"case {number}: {{ {' '.join(unpack)} "
            f"EACH_ITEM variant_{number}({', '.join(['item', 'items', *names])}); break; }}")


def _section(launch: Launch, number: int) -> str:
    """The text of a variant: a function, and what it needs, under names of its own."""
    names, macros, body = _body(launch.family, launch.kernel, "KTANH" in launch.defines)
    own = [name.partition("(")[0] for name in launch.defines]
    return "\n".join([
        *(f"#define {name} {value}" for name, value in sorted(launch.defines.items())),
        *(f"#define {name} {name}_{number}" for name in names), f"#define VARIANT variant_{number}",
        body, *(f"#undef {name}" for name in (*own, *names, *macros, "VARIANT"))])


@lru_cache
def _body(family: str, kernel: str, ktanh: bool
          ) -> tuple[tuple[str, ...], tuple[str, ...], str]:
    """What the variants of a kernel share: names of types and functions, macros, the text."""
    text = source(family, {"KTANH": 1} if ktanh else {})
    helpers = _KERNEL.sub("", text)
    names = {*_TYPE.findall(helpers), *_FUNCTION.findall(helpers)}
    for pair in _GENERATED.findall(helpers):
        names |= {name for name in pair if name.islower() and not _BUILT_IN.fullmatch(name)}
    text = _COMMENT.sub("", _KERNEL.sub(lambda found: _function(found, kernel), text))
    # what is a function for some defines and a macro for others has a number only as a function
    text = _MACRO.sub(lambda found: f"#undef {found[1]}\n{found[0]}" if found[1] in names
                      else found[0], text)
    # so that compilers keep none that they have inlined; variants are not, see APART
    text = _FUNCTION.sub(r"static \g<0>", text)
    text = "\n".join([
        "#define get_global_id(d) ((size_t)edgerun_item.s##d)",
        "#define get_global_size(d) ((size_t)edgerun_items.s##d)", text])
    return tuple(sorted(names)), tuple(sorted({*_MACRO.findall(text)})), text


def _function(found: re.Match, kernel: str) -> str:
    if found[2] != kernel:
        return "\n" * found[0].count("\n")
    line = "\n" if found[1] else ""  # so that compilers name the lines of the file
    return (f"{line}APART\nvoid VARIANT(const int4 edgerun_item, const int4 edgerun_items, "
            f"{found[3]}}}")
