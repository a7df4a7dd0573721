"""What may be forgotten, when that is refused, and what a service does after it has forgotten."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import delete, func, select, update

from kafkasaga import Saga, Settings, Step
from kafkasaga.errors import ConfigurationError, DatabaseUnavailable, SerializationConflict
from kafkasaga.ports import Prunable
from kafkasaga.runtime.operator import Operator
from kafkasaga.runtime.pruner import AT_ONCE, BETWEEN, Pruner
from kafkasaga.runtime.retention import check_retention, horizon, retention_of
from kafkasaga.runtime.service import PARKING
from kafkasaga.saga.instance import saga_id
from kafkasaga.testing.broker import MemoryBroker
from tests.unit.runtime.kit import (
    Begun,
    Buy,
    Node,
    Paid,
    Pay,
    Reserved,
    State,
    VirtualClock,
    attributes,
    bodies,
    context,
    orchestrator,
    send,
)

ID = saga_id("buy", "1")
DAY, DEFINITIONS = timedelta(days=1), (Buy.definition,)


def checked(**days: float) -> None:
    given: dict[str, Any] = {f"{name}_days": count for name, count in days.items()}
    settings = Settings.load(**given)
    check_retention(retention_of(settings), DEFINITIONS, PARKING)


def needed(name: str) -> float:
    """The days that a refusal names."""
    with pytest.raises(ConfigurationError) as refused:
        checked(**{name: 0.001})
    return float(str(refused.value).partition(" for ")[2].split()[0])


class TestLint:
    def test_nothing_is_forgotten_unless_it_is_asked_for(self) -> None:
        assert retention_of(Settings.load()) == {}
        checked()

    @pytest.mark.parametrize("name", ["inbox", "barrier"])
    def test_a31_less_than_the_longest_redelivery_is_refused(self, name: str) -> None:
        with pytest.raises(ConfigurationError) as refused:
            checked(**{name: 1.0})
        text = str(refused.value)
        assert f"KAFKASAGA_{name.upper()}_DAYS=1 is too short" in text
        assert "remove it to forget nothing" in text

    def test_what_the_error_names_is_enough(self) -> None:
        for name in ("inbox", "barrier"):
            checked(**{name: needed(name)})
            with pytest.raises(ConfigurationError):
                checked(**{name: needed(name) - 0.02})

    def test_all_that_is_wrong_is_said_at_once(self) -> None:
        with pytest.raises(ConfigurationError) as refused:
            checked(inbox=0.1, barrier=0.1, saga_key=0.1)
        assert [line.split("=")[0].strip() for line in str(refused.value).splitlines()[1:]] == [
            "KAFKASAGA_INBOX_DAYS",
            "KAFKASAGA_BARRIER_DAYS",
            "KAFKASAGA_SAGA_KEY_DAYS",
        ]

    def test_the_barrier_outlives_the_longest_saga(self) -> None:
        class Slow(Saga[State], name="slow", version=1, starts_on=Begun):
            pay = Step[State](
                command=lambda s: Pay(id=s.id), succeeds_on=Paid, kind="read-only", deadline=timedelta(days=5)
            )
            flow = pay

        with pytest.raises(ConfigurationError, match=r"BARRIER_DAYS=5 is too short: .* for 6\."):
            check_retention({Prunable.BARRIER: 5 * DAY}, (Slow.definition,), PARKING)

    def test_every_attempt_of_every_step_there_and_back_counts(self) -> None:
        """reserve: once, 30 s; back ten times, with waits of 1 + 2 + … + 256 s; pay: once, 30 s."""
        assert horizon(Buy.definition) == timedelta(seconds=30 + 10 * 30 + sum(2**n for n in range(9)) + 30)

    @pytest.mark.parametrize("days", [{"inbox": 40}, {"barrier": 40}, {"inbox": 40, "barrier": 90}])
    def test_a_key_is_free_no_sooner_than_inbox_and_barrier_forget_it(self, days: dict[str, float]) -> None:
        with pytest.raises(ConfigurationError, match=r"KAFKASAGA_SAGA_KEY_DAYS=60 (needs|is shorter than)"):
            checked(saga_key=60, **days)

    def test_what_fits_together_is_taken(self) -> None:
        checked(inbox=10, barrier=40, saga=20, saga_key=60, dead_letter=0.1)

    def test_a_key_is_not_free_before_its_state_is_forgotten(self) -> None:
        with pytest.raises(ConfigurationError, match="SAGA_KEY_DAYS=60 is shorter than KAFKASAGA_SAGA_DAYS=90"):
            checked(inbox=10, barrier=40, saga=90, saga_key=60)


@pytest.fixture
def node(broker: MemoryBroker, clock: VirtualClock) -> Node:
    """An orchestrator with one saga, which ended ten days ago by the database's clock."""
    node = orchestrator(broker, clock)
    send(broker, Begun(id="1"))
    run(node)
    for reply, step in ((Reserved(id="1"), "reserve"), (Paid(id="1"), "pay")):
        (command,) = attributes(broker, step)
        send(broker, reply, saga=context(ID, step=step, command_id=command.id))
        run(node)
    assert len(bodies(broker, "ended")) == 1
    with node.store.engine.begin() as connection:
        at = datetime.now(UTC) - 10 * DAY
        connection.execute(update(node.store.tables.saga).values(ended_at=at, heard_at=at, logged_since=at))
    return node


def run(node: Node) -> None:
    node.consume()
    node.publish()


def forget(node: Node, *what: Prunable) -> dict[Prunable, int]:
    return Operator(node.store).prune(dict.fromkeys(what, DAY))


class TestForgottenSagas:
    def test_i10_the_message_that_started_it_is_a_recorded_no_op(self, node: Node, broker: MemoryBroker) -> None:
        """Also under a new id, which no inbox could know."""
        assert forget(node, Prunable.SAGAS) == {Prunable.SAGAS: 1}
        send(broker, Begun(id="1"))
        run(node)
        assert len(bodies(broker, "reserve")) == 1
        history = Operator(node.store).saga(ID)
        assert history is not None
        assert [entry.event.kind for entry in history.log] == ["ignored"]

    def test_a_late_reply_is_ignored_and_not_for_nobody(self, node: Node, broker: MemoryBroker) -> None:
        forget(node, Prunable.SAGAS)
        send(broker, Paid(id="1"), saga=context(ID, step="pay", command_id=uuid4()))
        run(node)
        assert node.parked() == []

    def test_i07_verify_says_nothing_wrong_about_it(self, node: Node, broker: MemoryBroker) -> None:
        operator = Operator(node.store)
        forget(node, Prunable.SAGAS)
        assert operator.verify(ID) is None
        send(broker, Begun(id="1"))
        run(node)
        assert operator.verify(ID) is None
        assert operator.saga(ID).summary.pruned_at is not None  # type: ignore[union-attr]

    def test_i07_a_gap_in_what_is_left_is_found(self, node: Node, broker: MemoryBroker) -> None:
        forget(node, Prunable.SAGAS)
        for _ in range(3):
            send(broker, Begun(id="1"))
            run(node)
        log = node.store.tables.saga_log
        with node.store.engine.begin() as connection:
            last = connection.scalar(select(func.max(log.c.seq)))
            connection.execute(delete(log).where(log.c.seq == last))
        assert "gaps" in (Operator(node.store).verify(ID) or "")

    def test_a_key_that_is_free_starts_anew(self, node: Node, broker: MemoryBroker) -> None:
        forget(node, Prunable.SAGA_KEYS)
        assert Operator(node.store).saga(ID) is None
        send(broker, Begun(id="1"))
        run(node)
        assert len(bodies(broker, "reserve")) == 2


class TestPruner:
    def test_it_goes_on_until_nothing_is_old_and_pauses_in_between(self, clock: VirtualClock) -> None:
        store = Pieces(AT_ONCE, AT_ONCE + 7, 3)  # a saga's rows go together: a piece may be larger
        before = clock.monotonic()
        counts = Pruner(store, {Prunable.INBOX: DAY}, clock).prune()  # type: ignore[arg-type]
        assert counts == {Prunable.INBOX: 2 * AT_ONCE + 10}
        assert clock.monotonic() - before == pytest.approx(2 * BETWEEN)

    @pytest.mark.parametrize("error", [DatabaseUnavailable("away"), SerializationConflict("met")])
    def test_a_database_that_is_away_does_not_end_it(self, clock: VirtualClock, error: Exception) -> None:
        store = Pieces(error, 1)
        pruner = Pruner(store, {Prunable.INBOX: DAY}, clock)  # type: ignore[arg-type]
        store.empty = pruner.stop
        pruner.run()
        assert store.left == []


class Pieces:
    """What a store finds to forget, piece by piece."""

    def __init__(self, *left: int | Exception) -> None:
        self.left = list(left)
        self.empty: Callable[[], None] = lambda: None

    def prune(self, what: Prunable, keep: timedelta, limit: int) -> int:
        found = self.left.pop(0)
        if not self.left:
            self.empty()
        if isinstance(found, Exception):
            raise found
        return found
