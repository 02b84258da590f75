"""Device profiles: each follows the schema, and what is none is refused."""
from __future__ import annotations

import copy
import json

import pytest

from edgerun.errors import InputError
from edgerun.tools import profiles

NAMES = profiles.names()


def document(name: str) -> dict:
    return json.loads((profiles.FOLDER / f"{name}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", NAMES)
def test_profile(name):
    profile = profiles.load(name)
    assert profile.name == name and {*profile.facts} == {*profiles.FACTS}
    assert all(fact.source for fact in profile.facts.values())
    unknown = [fact for fact, found in profile.facts.items() if found.value is None]
    assert not [fact for fact in unknown if profile.facts[fact].verified]
    for what, source in profile.limits:
        assert what.endswith(".") and source


def test_what_there_is():
    """The devices that the project is for have profiles; only the one that it ran on is verified.
    """
    assert {"mali-g31", "mali-g52", "mali-g610", "mali-g710", "intel-skl", "intel-icl",
            "intel-tgl", "intel-adl", "intel-dg2", "cpu", "raspberry-pi-4", "rock-5b"} <= {*NAMES}
    assert [name for name in NAMES if profiles.load(name).verified] == ["cpu"]


def test_board_has_the_facts_of_its_chip():
    board, chip = profiles.load("rock-5b"), profiles.load("mali-g610")
    assert board["dot"] == chip["dot"] and board["memory"] and chip["memory"] is None
    assert {*chip.limits} < {*board.limits}


def test_unknown_name_lists_the_known():
    with pytest.raises(InputError, match="'mali-g99', there are: cpu, cpu-arm, .*rock-5b"):
        profiles.load("mali-g99")
    with pytest.raises(InputError, match="there are"):
        profiles.load("../profiles/cpu")


@pytest.mark.parametrize("change, message", [
    (lambda d: d.pop("title"), "has no title"),
    (lambda d: d.update(title=3), "has no title"),
    (lambda d: d.update(colour="red"), "'colour'"),
    (lambda d: d.update(based_on="nothing"), "no device profile called 'nothing'"),
    (lambda d: d.update(based_on="wrong"), "is based on 'wrong'"),
    (lambda d: d["facts"].pop("alignment"), "has no alignment"),
    (lambda d: d["facts"].update(speed={"value": 1, "source": "x", "verified": False}),
     "'speed' is no fact"),
    (lambda d: d["facts"]["alignment"].pop("source"), "alignment needs value, source"),
    (lambda d: d["facts"]["alignment"].update(source=" "), "alignment has no source"),
    (lambda d: d["facts"]["alignment"].update(value="128"), "alignment is '128'"),
    (lambda d: d["facts"]["alignment"].update(value=True), "alignment is True"),
    (lambda d: d["facts"]["alignment"].update(value=0), "alignment is 0, needed more"),
    (lambda d: d["facts"]["alignment"].update(verified="yes"), "verified of alignment"),
    (lambda d: d["facts"]["kind"].update(value="tpu"), "kind is 'tpu'"),
    (lambda d: d["facts"]["weights"].update(value="somewhere"), "weights is 'somewhere'"),
    (lambda d: d["facts"]["dot"].update(value="fast"), "dot is 'fast'"),
    (lambda d: d.update(limits=[{"what": "x"}]), "a limit needs what and source"),
])
def test_what_is_no_profile(change, message):
    wrong = copy.deepcopy(document("cpu"))
    change(wrong)
    with pytest.raises(InputError, match=message):
        profiles.parse("wrong", wrong)
    with pytest.raises(InputError, match="is no JSON object"):
        profiles.parse("wrong", [])
