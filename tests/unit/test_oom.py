"""`worker.oom`: a kernel kill is claimed only where a counter rose, and by one death only."""

from __future__ import annotations

from heavyq.core.outcome import OomKill
from heavyq.worker.oom import OomRises


class Counted:
    """A counter that the test turns."""

    name = "memory.events"

    def __init__(self, value=3):
        self.value = value

    def read(self):
        return self.value


def test_without_a_rise_there_is_no_kernel_kill():
    rises = OomRises(Counted())
    assert not rises.any_fresh(1.0)
    assert rises.take(1.0, 0.0) is None


def test_one_rise_is_credited_to_one_death():
    counter = Counted()
    rises = OomRises(counter)
    counter.value = 4
    assert rises.any_fresh(1.0)
    assert rises.take(1.0, 0.0) == OomKill("memory.events", 3, 4)
    assert rises.take(1.0, 0.0) is None


def test_two_kills_are_two():
    counter = Counted()
    rises = OomRises(counter)
    counter.value = 5
    rises.look(1.0)
    assert rises.take(1.0, 0.0) == OomKill("memory.events", 3, 4)
    assert rises.take(1.5, 0.0) == OomKill("memory.events", 4, 5)
    assert rises.take(1.5, 0.0) is None


def test_an_old_rise_is_nobodys_any_more_but_is_remembered_as_having_been():
    counter = Counted()
    rises = OomRises(counter)
    counter.value = 4
    rises.look(10.0)
    assert not rises.any_fresh(20.0)
    assert rises.take(20.0, 0.0) is None
    assert rises.since(5.0, 20.0) == OomKill("memory.events", 3, 4)
    assert rises.since(15.0, 20.0) is None


def test_a_kill_from_before_it_was_last_seen_alive_is_not_its_death():
    counter = Counted()
    rises = OomRises(counter)
    counter.value = 4
    rises.look(1.0)
    assert rises.take(2.0, 1.5) is None
    assert rises.take(2.0, 1.1) == OomKill("memory.events", 3, 4)  # its last look and its kill may cross


def test_a_counter_that_cannot_be_read_tells_nothing():
    counter = Counted(None)
    rises = OomRises(counter)
    assert not rises.any_fresh(1.0)
    counter.value = 7  # readable now: how much of it is new cannot be known
    assert not rises.any_fresh(1.0)
    counter.value = 8
    assert rises.any_fresh(1.0)
