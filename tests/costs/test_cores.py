"""How fast cores are beside each other."""

from keras_soap.costs import cores
from keras_soap.costs.cores import Cores


def test_cores_at_work_together_are_compared_with_one_that_is_alone(monkeypatch):
    speeds = iter([4.0, 3.0, 3.0])
    monkeypatch.setattr(cores, "_speed", lambda core: next(speeds))
    monkeypatch.setattr(cores, "_numbers", lambda: [0, 1])
    assert Cores().speed() == 0.75


def test_one_core_is_compared_with_what_it_did_before(monkeypatch):
    speeds = iter([4.0, 2.0, *[4.0] * 20, 5.0, 4.0])
    monkeypatch.setattr(cores, "_speed", lambda core: next(speeds))
    monkeypatch.setattr(cores, "_numbers", lambda: [0])
    found = Cores()
    assert found.enough(found.speed())
    assert not found.enough(found.speed())
    assert [found.speed() for _ in range(20)][-1] == 1.0
    # One moment that was faster than all others does not make these slow.
    assert [found.speed(), found.speed()] == [1.0, 1.0]


def test_cores_are_as_fast_as_they_can_be_or_were_ever_seen(monkeypatch):
    together = 3.0
    monkeypatch.setattr(cores, "_speed", lambda core: 4.0 if alone.pop(0) else together)
    monkeypatch.setattr(cores, "_numbers", lambda: [0, 1])
    alone = [True, False, False] * 3
    found = Cores()
    assert not found.enough(found.speed())
    found.settle_for(0.75)
    assert found.enough(found.speed())
    assert not found.enough(0.6)
    together = 4.0
    assert found.enough(found.speed())
    assert not found.enough(0.75)


def test_patience_is_used_up_by_waiting():
    found = Cores()
    assert found.wait(cores.PATIENCE_S - 1)
    assert not found.wait(cores.PATIENCE_S)
    found.waited(cores.PATIENCE_S - 1)
    assert found.wait(0.5)
    assert not found.wait(1.0)


def test_this_machine_can_be_asked():
    assert 0 < Cores().speed() <= 1
    assert cores.of_this_process() is cores.of_this_process()
