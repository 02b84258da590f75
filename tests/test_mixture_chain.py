"""Experts that the device itself leaves out, in a chain of launches: the bits of other routes."""
from __future__ import annotations

import numpy as np
import pytest

import edgerun
from edgerun import DeviceError, loader, pages, routes
from edgerun.chain import HEAD
from edgerun.device import Device
from edgerun.memory import Buffers
from edgerun.session import Session
from edgerun.tools import moe
from edgerun.tools.importers.onnx.mixture import DOMAIN, OP
from tests import page_cache
from tests.conftest import PROMISED
from tests.moe_networks import (
    CHANNELS, CHOSEN, EXPERTS, Weights, expert, feed, gate, images, network, packed)

STEP = HEAD - 1  # of a row: how far the next one is
NETWORKS = {
    "one sample": {}, "three samples": {"batch": 3},
    "two mixtures": {"twice": True}, "two mixtures, two samples": {"batch": 2, "twice": True},
    "one expert of all": {"k": 1}, "all experts": {"k": EXPERTS},
    "all experts, two samples": {"k": EXPERTS, "batch": 2},
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A name of NETWORKS -> the packed file; each is packed once."""
    folder, found = tmp_path_factory.mktemp("moe"), {}

    def file(name: str = "one sample"):
        if name not in found:
            found[name] = packed(folder, network(**NETWORKS[name]), name=f"m{len(found)}")
        return found[name]
    return file


@pytest.fixture(autouse=True)
def chained(monkeypatch):
    monkeypatch.setenv("EDGERUN_ROUTE", "chain")


def given(session: Session, count: int = 8) -> list[dict[str, np.ndarray]]:
    return [feed(session, image) for image in images(session.inputs[0].shape[0], count)]


def answers(session: Session, count: int = 8) -> list[tuple[np.ndarray, list[np.ndarray]]]:
    """Return what a session says of images, and which experts it has chosen."""
    return [(session.run(x)["y"], session.experts.chosen) for x in given(session, count)]


def assert_same(found, wanted) -> None:
    for (y, chosen), (other, others) in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(y, other)
        for a, b in zip(chosen, others, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_bits_of_a_host_that_chooses(device, files, monkeypatch, name):
    """And of all experts together; a run is one command."""
    with monkeypatch.context() as other:
        other.setenv("EDGERUN_ROUTE", "launches")
        with edgerun.load(files(name), device) as session:
            wanted = answers(session)
    with edgerun.load(files(name), device) as session:
        assert session.route.name == "chain" and session.route.commands == len(session.parts) == 1
        assert session.experts.chosen == [None] * len(session.model.mixtures)
        for _ in range(2):
            assert_same(answers(session), wanted)
            session.experts.every = True
            assert_same(answers(session), wanted)
            session.experts.every = False
    assert session.experts.chosen == [None] * len(session.model.mixtures)


@pytest.mark.parametrize("batch", [1, 3])
def test_experts_that_are_not_chosen_do_not_run(device, files, batch):
    """Nothing happens where each of their launches would clear the sum of the experts."""
    with edgerun.load(files("one sample" if batch == 1 else "three samples"), device) as session:
        spoilt = 0
        for x in given(session, 20):
            wanted = session.run(x)["y"]
            idle = {*range(EXPERTS)} - {*session.experts.chosen[0].ravel().tolist()}
            kept = spoil(session, idle)
            np.testing.assert_array_equal(session.run(x)["y"], wanted)
            session.experts.every = True
            spoilt += (session.run(x)["y"] != wanted).any()
            session.experts.every = False
            session.route._ints[:] = kept
        assert spoilt > 3  # each time where one lies behind one that is chosen


def spoil(session: Session, experts: set[int]) -> np.ndarray:
    """Let the launches of some experts be that of the route; returns the table as it was."""
    ints, table = session.route._ints, session.route._table
    kept, mixture = ints.copy(), session.model.mixtures[0]
    rows = {op.index: table.starts[n] for n, (op, _) in enumerate(session.prepared)}
    route = ints[rows[mixture.route]:][:table.row].copy()
    for expert in experts:
        span, flag = mixture.experts[expert], table.cold[0][expert]
        for n in range(1, 1 + sum(span.first <= op.index < span.first + span.ops
                                  for op, _ in session.prepared)):
            row = ints[flag - HEAD + n * table.row:][:table.row]
            row[:STEP], row[HEAD:] = route[:STEP], route[HEAD:]
    return kept


@pytest.mark.parametrize("name", ["one sample", "three samples", "two mixtures"])
def test_it_stops_at_experts_that_are_chosen_for_the_first_time(device, files, monkeypatch, name):
    """There the system is asked to read their weights, of each expert once."""
    asked, ahead = [], pages.ahead
    with edgerun.load(files(name), device) as session:
        page_cache.need_in_place(session)
        monkeypatch.setattr(pages, "ahead", lambda *of: (asked.append(of), ahead(*of)))
        seen, stops, go_on = set(), [], session.route.go_on
        monkeypatch.setattr(session.route, "go_on", lambda *of: (stops.append(of), go_on(*of)))
        for x in given(session, 40):
            session.run(x)
            new = [{*np.unique(chosen).tolist()} - {e for n, e in seen if n == which}
                   for which, chosen in enumerate(session.experts.chosen)]
            assert [which for which, _ in stops] == [n for n, experts in enumerate(new) if experts]
            assert len(asked) == sum(map(len, new))
            seen |= {(which, expert) for which, experts in enumerate(new) for expert in experts}
            assert {*session.experts.cold}.isdisjoint(seen)
            stops.clear()
            asked.clear()
        assert len(seen) == EXPERTS * len(session.model.mixtures)


def test_a_run_of_known_experts_waits_for_nothing(device, files, monkeypatch):
    """It is enqueued as one command, of which the host reads nothing."""
    with edgerun.load(files("three samples"), device) as session:
        wanted = answers(session, 40)
        assert not session.experts.cold, "the images have not chosen all experts"
        enqueued, enqueue = [], session.route._enqueue
        monkeypatch.setattr(session.route, "_enqueue", lambda *of: (
            enqueued.append(of), enqueue(*of)))
        for x, (y, _) in zip(given(session, 40), wanted):
            session.write(session.check(x))
            with monkeypatch.context() as other:
                other.setattr(session, "finish", None)
                other.setattr(session, "access", None)
                session.enqueue()
            np.testing.assert_array_equal(session.read()["y"], y)
        assert len(enqueued) == 40


def test_a_run_that_ends_where_the_chain_stopped(device, files, monkeypatch):
    """The next one begins at the beginning."""
    with edgerun.load(files(), device) as session:
        wanted = answers(session)

    def refuse(*_) -> None:
        raise DeviceError("not now")
    with edgerun.load(files(), device) as session:
        page_cache.need_in_place(session)
        with monkeypatch.context() as other:
            other.setattr(session.route, "go_on", refuse)
            with pytest.raises(DeviceError, match="not now"):
                session.run(given(session)[0])
        assert_same(answers(session), wanted)


def test_a_command_that_the_driver_refuses(device, files, monkeypatch):
    """The next one has its own rows, though the first had set one of its arguments."""
    with edgerun.load(files("two mixtures"), device) as session:
        wanted = answers(session, 40)
        assert not session.experts.cold, "the images have not chosen all experts"
        route = session.route
        kernel, places = route._kernel, []

        class Refusing:
            def set_arg(self, at, value):
                places.append(at)
                if len(places) == 2:
                    raise session.device.cl.LogicError("not now")
                kernel.set_arg(at, value)
        start, end = route._spans[0]
        with monkeypatch.context() as other:
            other.setattr(route, "_kernel", Refusing())
            with pytest.raises(DeviceError, match="refuses the chain"):
                route._enqueue(start + route._table.row, end)
        assert_same(answers(session, 40), wanted)


def test_sessions_that_share_an_arena(device, files):
    """Both stop at experts of their own, in turns."""
    with edgerun.load(files("two mixtures"), device) as session:
        wanted = answers(session)
    sessions = edgerun.load_many([files("two mixtures")] * 2, device)
    for x, (y, _) in zip(given(sessions[0]), wanted):
        for session in sessions:
            np.testing.assert_array_equal(session.run(x)["y"], y)
    for session in sessions:
        session.close()


@pytest.mark.parametrize("groups", [1, 5])
def test_any_number_of_work_groups(files, monkeypatch, groups):
    """One that comes late walks like the others, though what was chosen is written over by then."""
    device, name = Device(PROMISED["pocl"][0]), "two mixtures, two samples"
    with edgerun.load(files(name), device) as session:
        wanted = answers(session, 20)
    monkeypatch.setattr(routes, "_cores", lambda _: groups)
    with edgerun.load(files(name), device) as session:
        for _ in range(20):
            assert_same(answers(session, 20), wanted)


def test_a_streamed_input(device, tmp_path):
    """Its pieces are copied in between commands, the last of which has all experts."""
    weights = Weights(3)
    whole = moe.Part("image", (1, 1, 64, 64))
    whole.add("Conv", weights(CHANNELS, 1, 3, 3), kernel_shape=[3, 3], pads=[1] * 4)
    whole.add("MaxPool", kernel_shape=[8, 8], strides=[8, 8])
    whole.add(OP, domain=DOMAIN, **moe.attributes(
        gate(weights, 1).graph(), [expert(weights).graph() for _ in range(EXPERTS)], CHOSEN))
    whole.add("Relu")
    model, found = moe.model(whole.graph("y")), {}
    for patch in ("off", "auto"):
        path = packed(tmp_path, model, name=patch, patch=patch)
        with edgerun.load(path, device) as session:
            assert bool(session.inputs[0].pieces) == (patch == "auto")
            assert session.route.commands == len(session.parts)
            assert (len(session.parts) > 1) == (patch == "auto")
            name, shape = session.inputs[0].name, session.inputs[0].shape
            rng = np.random.default_rng(4)
            found[patch] = [
                (session.run({name: rng.standard_normal(shape, np.float32)})["y"],
                 session.experts.chosen) for _ in range(8)]
    assert_same(found["auto"], found["off"])


def test_memory_that_is_not_shared(device, files, monkeypatch):
    """The host chooses, and experts are parts."""
    with edgerun.load(files("three samples"), device) as session:
        wanted = answers(session)
    monkeypatch.setattr(Buffers, "_coherent", lambda _: False)
    with edgerun.load(files("three samples"), device) as session:
        assert session.route.name == "chain" and len(session.parts) == EXPERTS + 2
        assert_same(answers(session), wanted)


def test_profiles_and_runs_in_turns(device, files):
    """A profile has every launch once, and leaves no trace."""
    with edgerun.load(files("three samples"), device) as session:
        wanted = answers(session)
        for x, (y, _) in zip(given(session), wanted):
            assert len(session.profile(x)) == len(session.prepared)
            np.testing.assert_array_equal(session.run(x)["y"], y)


def test_a_table_of_a_mixture(device, files):
    """Rows lie where the table says, and rows of the same mixture know it."""
    model = loader.read(files("two mixtures, two samples"))
    with Session(model, device) as session:
        table, ints = session.route._table, session.route._ints
        assert table.starts[-1] == len(ints) and len(table.kept) == 2
        assert [len(flags) for flags in table.cold] == [EXPERTS, EXPERTS]
        for number, flags in enumerate(table.cold):
            assert all(table.mixture_at(flag - HEAD) == number for flag in flags)
        for which, chosen in enumerate(answers(session, 1)[0][1]):
            at = table.kept[which]
            assert chosen.shape == (2, CHOSEN)
            np.testing.assert_array_equal(ints[at:at + chosen.size], chosen.ravel())
