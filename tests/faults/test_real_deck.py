"""What the fault tier planned, it has to reach (A40)."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from random import Random

import pytest

from tests.faults.real.account import TRIES, Account, Happened
from tests.faults.real.checker import Evidence, judge
from tests.faults.real.deck import deal, planned
from tests.faults.real.faults import DECK
from tests.faults.real.mortal import POINTS
from tests.faults.real.options import Options
from tests.faults.real.probe import QUESTIONS, Answer, answer
from tests.faults.real.replica import stands_still
from tests.faults.real.report import facts, status
from tests.faults.real.run import Run
from tests.support import KafkaServer, PostgresServer


def dealt(account: Account, *never: str) -> list[str]:
    """What comes in a round in which everything is reached at once, but for ``never``."""
    names: list[str] = []
    for name in deal(account, Random(1), for_ever=False):
        names.append(name)
        account.add(name, Happened(name, "", reached=name not in never))
    return names


def test_a40_a_run_plans_every_fault_that_there_is() -> None:
    assert planned(DECK, ()) == list(DECK)
    assert {f"SIGKILL {point}" for point in POINTS} < set(DECK)
    for server in ("Kafka", "PostgreSQL"):
        assert {f"{server} {how}" for how in ("stopped", "killed", "frozen")} < set(DECK)
        assert {f"network to {server} {how}" for how in ("cut", "silent")} < set(DECK)
    assert planned(DECK, ("takeover", "Kafka killed")) == ["takeover 1", "takeover 2", "Kafka killed"]


def test_a40_what_was_not_reached_comes_again_and_no_more_often_than_it_helps() -> None:
    account = Account(planned=["a", "b", "c"])
    assert sorted(dealt(account, "b")) == ["a", *["b"] * TRIES, "c"]
    assert account.never_reached == ["b"]
    assert account.outstanding == []


def test_a_later_round_has_each_fault_once_though_it_is_not_reached_again() -> None:
    account = Account(planned=["a", "b"])
    dealt(account)
    assert sorted(dealt(account, "b")) == ["a", "b"]
    assert account.never_reached == []


@pytest.mark.parametrize(("reached", "expected"), [(True, 0), (False, 1)])
def test_a40_a_run_that_did_not_reach_what_it_planned_has_failed(*, reached: bool, expected: int) -> None:
    run = healthy()
    for name in DECK:
        run.account.add(name, Happened(name, "", reached=reached or name != "SIGKILL before produce"))
    assert status(run) == expected
    assert facts(run)["never_reached"] == ([] if reached else ["SIGKILL before produce"])


def test_a40_a_run_that_never_came_to_a_fault_has_failed() -> None:
    run = healthy()
    for name in list(DECK)[:-1]:
        run.account.add(name, Happened(name, ""))
    assert status(run) == 1
    assert facts(run)["never_reached"] == [list(DECK)[-1]]


def healthy() -> Run:
    """A run that found nothing wrong."""
    run = Run(Options(), print)
    run.account.planned = planned(DECK, ())
    run.verdict = judge(Evidence({}, {}, {}))
    return run


def test_a_frozen_process_is_told_from_one_that_runs() -> None:
    process = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    try:
        assert not stands_still(process.pid)
        process.send_signal(signal.SIGSTOP)
        os.waitpid(process.pid, os.WUNTRACED)
        assert stands_still(process.pid)
    finally:
        process.kill()
        process.wait()


def test_a_port_where_nobody_listens_refuses_and_one_where_nobody_speaks_is_silent() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        assert answer(port, QUESTIONS["Kafka"]) is Answer.NONE
    assert answer(port, QUESTIONS["Kafka"]) is Answer.REFUSED


def test_servers_answer_the_question_that_shows_whether_they_are_there(
    postgres: PostgresServer, kafka: KafkaServer
) -> None:
    assert answer(postgres.port, QUESTIONS["PostgreSQL"]) is Answer.GIVEN
    assert answer(kafka.port, QUESTIONS["Kafka"]) is Answer.GIVEN
