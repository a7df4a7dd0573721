"""How long a consumer gathers: a moment where it waits for a processor, else not at all."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kafkasaga.runtime import contention
from kafkasaga.runtime.contention import waited
from kafkasaga.runtime.pace import CROWDED, LONGEST, WORTH, Pace
from tests.unit.runtime.kit import VirtualClock


class Machine:
    """A thread on a machine that lets it wait for a processor."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.waited, self.asked = 0.0, 0
        self.pace = Pace(self.clock, self.tell)

    def tell(self) -> float:
        self.asked += 1
        return self.waited

    def work(self, batches: int, *, seconds: float = 0.01, crowded: float = CROWDED, messages: int = 50) -> None:
        for _ in range(batches):
            self.clock.sleep(0.003)
            self.waited += 0.002  # it waits elsewhere too
            self.pace.polled()
            self.clock.sleep(seconds)
            self.waited += seconds * crowded
            self.pace.worked(messages)


@pytest.fixture
def machine() -> Machine:
    return Machine()


def test_where_there_are_processors_to_spare_nothing_is_gathered(machine: Machine) -> None:
    assert machine.pace.gather == 0
    machine.work(100, crowded=0.0)
    assert machine.pace.gather == 0
    machine.work(100, crowded=CROWDED / 10)
    assert machine.pace.gather <= 0.01 / 50, "now and then everybody waits for a processor"


@pytest.mark.parametrize("seconds", [0.002, 0.01])
def test_on_a_full_machine_the_moment_is_as_long_as_a_batch(machine: Machine, seconds: float) -> None:
    machine.work(200, seconds=seconds)
    assert machine.pace.gather == pytest.approx(seconds, rel=0.01)


def test_the_fuller_the_longer(machine: Machine) -> None:
    machine.work(200, crowded=CROWDED * 2)
    assert machine.pace.gather == pytest.approx(4 * 0.01, rel=0.01)


def test_the_moment_has_an_end_however_long_batches_take(machine: Machine) -> None:
    machine.work(100, seconds=2.0, crowded=0.9)
    assert machine.pace.gather == LONGEST


@pytest.mark.parametrize(("messages", "gathers"), [(1, False), (WORTH - 1, False), (WORTH + 1, True)])
def test_where_messages_come_one_by_one_there_is_nothing_to_gather(
    machine: Machine, messages: int, *, gathers: bool
) -> None:
    machine.work(200, messages=messages)
    assert (machine.pace.gather > 0) == gathers
    assert (machine.asked > 0) == gathers, "a lone message is not to pay for it"


def test_what_was_long_ago_says_nothing_of_now(machine: Machine) -> None:
    machine.work(200, crowded=0.9)
    machine.work(200, messages=1)
    machine.work(1, crowded=0.0, messages=200)
    assert machine.pace.gather == 0


def test_one_batch_is_no_rule(machine: Machine) -> None:
    machine.work(200)
    before = machine.pace.gather
    machine.work(1, seconds=0.1)
    assert before < machine.pace.gather < 0.05
    machine.work(30)
    assert machine.pace.gather == pytest.approx(before, rel=0.1)


def test_a_batch_that_took_no_time_waited_for_nothing(machine: Machine) -> None:
    machine.work(10, seconds=0.0, crowded=1.0)
    assert machine.pace.gather == 0


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux only; elsewhere nothing is gathered")
def test_linux_tells_how_long_a_thread_has_waited() -> None:
    """Two that want one processor."""
    mine = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(mine)})
    rival = subprocess.Popen([sys.executable, "-c", "while True: pass"])  # where its parent is
    try:
        before = waited()
        while waited() < before + 0.001:
            pass
    finally:
        rival.kill()
        rival.wait()
        os.sched_setaffinity(0, mine)


def test_where_nobody_tells_it_is_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(contention, "_SCHEDSTAT", tmp_path / "there is none")
    assert waited() == 0
