"""How a service's loops end."""

from __future__ import annotations

import threading

import pytest

from kafkasaga import Service
from kafkasaga.runtime.runner import Role, Runner, _Running
from kafkasaga.settings import Settings


class Loop:
    """It ends when it was told to, and ``others`` were."""

    def __init__(self, name: Role, told: list[str], *others: Loop) -> None:
        self.name, self._told, self._others = name, told, others
        self.stopped = threading.Event()

    def run(self) -> None:
        for loop in (self, *self._others):
            loop.stopped.wait(20)
        self._told.append(f"{self.name} ended")

    def stop(self) -> None:
        self._told.append(f"{self.name} is to end")
        self.stopped.set()


def test_loops_are_told_to_end_together_and_the_relay_when_they_have(capsys: pytest.CaptureFixture[str]) -> None:
    settings = Settings.load(database_url="sqlite://", bootstrap_servers="127.0.0.1:1", shutdown_timeout=10)
    runner, told = Runner(Service("svc"), settings), list[str]()
    timekeeper = Loop("timekeeper", told)
    loops = (Loop("relay", told), Loop("consumer", told, timekeeper), timekeeper)
    for loop in loops:
        thread = threading.Thread(target=loop.run, daemon=True)
        thread.start()
        runner._running.append(_Running(loop.name, loop, thread))
    runner.stop()
    assert sorted(told[:2]) == ["consumer is to end", "timekeeper is to end"]
    assert sorted(told[2:4]) == ["consumer ended", "timekeeper ended"]
    assert told[4:] == ["relay is to end", "relay ended"]
    assert "did not end in time" not in capsys.readouterr().out


def test_a_loop_that_does_not_end_is_left_behind_and_named(capsys: pytest.CaptureFixture[str]) -> None:
    settings = Settings.load(database_url="sqlite://", bootstrap_servers="127.0.0.1:1", shutdown_timeout=0.01)
    runner, told = Runner(Service("svc"), settings), list[str]()
    never = Loop("timekeeper", told)
    stuck = Loop("consumer", told, never)
    thread = threading.Thread(target=stuck.run, daemon=True)
    thread.start()
    runner._running.append(_Running(stuck.name, stuck, thread))
    runner.stop()
    assert thread.is_alive()
    assert "loop did not end in time" in capsys.readouterr().out
    never.stopped.set()
    thread.join()
