"""Fields of a prototxt that its messages have not; protobuf either refuses them or drops them."""
from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

# A comment, a string, or anything else.
_TOKEN = re.compile(r"""#[^\n]*|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|[{}<>\[\]:,;]|"""
                    r"""[^\s{}<>\[\]:,;#"']+""")
_OPEN, _CLOSE = ("{", "<"), ("}", ">")
# What changes no number that a network computes: how weights begin, who computes, what is printed,
# and the parameters of data and losses.
_HARMLESS = re.compile(r"(.*_)?filler|engine|cudnn_.*|save_output_param|transform_param|loss_param|"
                       r"(.*_)?data_param|lr_mult|decay_mult|loss_weight|propagate_down|include|"
                       r"exclude|param|blobs")


def of_layers(text: str, net: Any, kind: str) -> list[list[str]]:
    """Return the unknown fields of every layer, in the order of the text.

    Args:
        text: a prototxt that protobuf can read.
        net: descriptor of the whole network.
        kind: its field that holds the layers.

    Returns:
        Per layer, paths such as "relu_param.slope". Only parameters count, and of these not what
        only training needs; a field of the layer itself counts if it holds more fields.
    """
    layers: list[list[str]] = []
    for path, known, message in _fields(text, net):
        if path[0] != kind:
            continue
        if len(path) == 1:
            layers += [[]] if message else []
        elif not known and (message or len(path) > 2) and not any(
                _HARMLESS.fullmatch(name) for name in path[1:]):
            layers[-1].append(".".join(path[1:]))
    return layers


def _fields(text: str, net: Any) -> Iterator[tuple[list[str], bool, bool]]:
    """Yield the path of every field, whether it is known, and whether it holds more fields.

    Nothing inside of an unknown field is yielded.
    """
    tokens = [token for token in _TOKEN.findall(text) if not token.startswith("#")]
    path: list[str] = []
    open_: list[Any] = [net]  # descriptors; None: unknown
    name = ""
    for number, token in enumerate(tokens):
        after = tokens[number + 1:number + 3]
        if token in _OPEN:
            field = None
            if open_[-1] is not None:
                field = open_[-1].fields_by_name.get(name)
                yield [*path, name], field is not None, True
            path.append(name)
            open_.append(field.message_type if field else None)
        elif token in _CLOSE:
            name = path.pop() if path else ""  # a list may go on with the next one
            open_ = open_[:-1] or [None]
        elif after and after[0] in (":", *_OPEN) and (token[0].isalpha() or token[0] == "_"):
            name = token
            if open_[-1] is not None and after[0] == ":" and after[-1] not in _OPEN:
                yield [*path, name], name in open_[-1].fields_by_name, False
