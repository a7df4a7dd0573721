"""The simulator finds what it is for: each bug that is planted in the library here is found within a minute.

These are also the mutations of the lines that protect the invariants: what this file changes, the library must not.
"""

from dataclasses import dataclass

import pytest

from examples.order_system.orchestrator import PlaceOrder
from kafkasaga.runtime.batch import BatchRunner
from kafkasaga.runtime.consumer import ConsumerLoop
from kafkasaga.runtime.orchestrator import SagaTurn
from kafkasaga.runtime.participant import HandlerTurn
from kafkasaga.runtime.relay import Relay
from kafkasaga.runtime.relay_stream import Stream
from kafkasaga.runtime.relay_sweep import Sweep
from kafkasaga.runtime.retries import Retries
from kafkasaga.runtime.timekeeper import Timekeeper
from kafkasaga.runtime.triage import Triage
from kafkasaga.saga import advance, match
from kafkasaga.testing.memory import MemoryUnitOfWork
from kafkasaga.testing.simulator import Fault, LawBroken, simulate
from kafkasaga.testing.simulator.kafka import WorldProducer
from tests.faults.planting import plant
from tests.property.simulated import BookTrip, MoveHouse, RentCars

RUNS = 1000
"""To find a bug in: less than a minute of one core."""


@dataclass(frozen=True)
class Bug:
    """A line of the library, what it is changed to, and the laws of which one must be seen to be broken."""

    owner: object
    name: str
    changes: tuple[tuple[str, str], ...]
    laws: tuple[str, ...]


BUGS = {
    "i05-offset-stored-before-the-commit": Bug(
        ConsumerLoop,
        "_commit",
        (
            (
                "    while records and not",
                (
                    "    self._consumer.store({TopicPartition(r.topic, r.partition): r.offset + 1 for r in records})\n"
                    "    while records and not"
                ),
            ),
        ),
        ("I5 ",),
    ),
    "i05-position-noted-before-the-work": Bug(
        BatchRunner,
        "_transact",
        (
            (
                "    with self._store.begin() as uow:\n",
                (
                    "    with self._store.begin() as early:\n"
                    "        early.advance(self._group, _positions([item.record for item in items]))\n"
                    "    with self._store.begin() as uow:\n"
                ),
            ),
        ),
        ("I5 ",),
    ),
    "i01-inbox-in-a-transaction-of-its-own": Bug(
        BatchRunner,
        "_transact",
        (
            (
                "    with self._store.begin() as uow:\n",
                (
                    "    with self._store.begin() as inbox:\n"
                    "        fresh = inbox.claim_inbox({task.inbox_key for task in tasks})\n"
                    "    with self._store.begin() as uow:\n"
                    "        uow.claim_inbox = lambda keys: set(fresh)\n"
                ),
            ),
        ),
        ("I1 ", "I2 "),
    ),
    "i03-inbox-not-asked": Bug(
        Triage,
        "_new",
        (("fresh = self._uow.claim_inbox(set(keys))", "self._uow.claim_inbox(set(keys))\n    return tasks"),),
        ("I3 ", "I9 "),
    ),
    "i09-barrier-written-over": Bug(
        MemoryUnitOfWork,
        "settle_barrier",
        (("if key in self._tables.barrier or key in self._barrier:", "if False:"),),
        ("I8 ", "I9 "),
    ),
    "i09-hanging-action-is-carried-out": Bug(
        HandlerTurn,
        "_without_handler",
        (("if known is not None:", "if known is not None and known.outcome is not Outcome.SUPERSEDED:"),),
        ("I9 ", "I10 "),  # the barrier refuses what it would write, again and again
    ),
    "i09-empty-compensation-is-carried-out": Bug(
        HandlerTurn, "_without_handler", (("and self._nothing_to_undo(key, context.failures)", "and False"),), ("I9 ",)
    ),
    "i04-parked-lane-ignored": Bug(
        Triage,
        "sort",
        (("self._uow.parked_lanes(lane for task in tasks if (lane := task.lane) is not None)", "set()"),),
        ("I4 ",),
    ),
    "i04-parked-messages-of-a-key-are-tried-in-any-order": Bug(
        MemoryUnitOfWork,
        "claim_parked",
        (
            ("heads(self._visible().values())", "self._visible().values()"),
            ("(p.next_at, p.id)", "(p.next_at or p.parked_at, p.id)"),
            ("p.next_at is not None and p.next_at <= now", "(p.next_at or p.parked_at) <= now"),
        ),
        ("I4 ",),
    ),
    "i01-messages-leave-before-the-commit": Bug(
        MemoryUnitOfWork,
        "add_outbox",
        (
            (
                "self._writes.append(lambda row=row: self._tables.outbox.update({row.position: row}))",
                "self._tables.outbox.update({row.position: row})",
            ),
        ),
        ("I1 ", "I8 ", "deadline gate"),
    ),
    "i11-a-timer-that-fired-is-not-set-anew": Bug(
        MemoryUnitOfWork, "_timer", (("return wish if", "return None if change.woken else wish if"),), ("I10 ",)
    ),
    "i04-relay-sends-behind-what-is-under-way": Bug(
        Relay,
        "_place",
        (
            (
                "    if self._lanes.follow(row):\n",
                (
                    "    if (row.topic, row.key) in self._lanes:\n"
                    "        def done(error, row=row):\n"
                    "            self._held.remove([row]) if error else self._acknowledged.append(row)\n"
                    "        self._at_work.send(row.topic, row.key, row.payload, row.headers, done)\n"
                ),
            ),
        ),
        ("I4 ",),
    ),
    "i02-relay-takes-a-stream-that-failed-for-delivered": Bug(
        Stream, "settle", (("if not failures:", "if True:"),), ("I2 ", "I10 ", "deadline gate")
    ),
    "i02-relay-deletes-before-the-acknowledgement": Bug(
        Relay,
        "_place",
        (
            (
                "        self._lanes.begin(row, self._at_work)",
                "        self._lanes.begin(row, self._at_work)\n        self._queue.delete([row])",
            ),
        ),
        ("I2 ", "I10 "),
    ),
    "i02-relay-never-goes-back": Bug(
        Sweep,
        "took",
        (
            (
                "self._after = rows[-1].position if full and self._top is not None else 0",
                "self._after = rows[-1].position if rows else self._after",
            ),
        ),
        ("I2 ", "I10 "),
    ),
    "i08-compensation-in-the-order-of-the-actions": Bug(
        advance, "_back", (("for part in reversed(parts))", "for part in parts)"),), ("I8 ",)
    ),
    "i08-failed-deadline-is-not-undone": Bug(
        advance,
        "_undo",
        (
            ("state.status in _MAY_HAVE_RUN", "state.status is StepStatus.SUCCEEDED"),
            ("is StepStatus.COMPENSATED", "is not StepStatus.UNDOING"),
        ),
        ("I8 ", "I10 "),
    ),
    "a23-deadline-fires-before-the-replies-are-read": Bug(
        Timekeeper,
        "_wake_due",
        (("if any(read.get(partition, 0) < end for partition, end in gate.ends.items()):", "if False:"),),
        ("deadline gate",),
    ),
    "a23-deadline-fires-before-the-command-is-sent": Bug(
        Timekeeper,
        "_may_wake",
        (("if any(command in unsent for command in commands):", "if False:"),),
        ("deadline gate",),
    ),
    "i04-stream-goes-on-behind-a-failed-row": Bug(
        WorldProducer,  # of all producers the only one here; Kafka's own is held to it by the contract suite
        "_write_next",
        (
            (
                '        flow.end("the simulated broker refuses this record")\n        self._settle(flow)\n',
                (
                    '        flow.failures.append((flow.rows.pop(0), SendError("refused", permanent=False)))\n'
                    "        self._schedule(flow)\n"
                ),
            ),
        ),
        ("I4 ",),
    ),
    "i10-a-message-is-dropped-after-its-last-attempt": Bug(
        Retries, "_end", (("self._write(uow, parked, error, status)", "uow.unpark(parked.id)"),), ("I10 ",)
    ),
    "i03-new-ids-each-time": Bug(
        SagaTurn,
        "_turns",
        (
            (
                "self._sender.envelope(message, id, now,",
                "self._sender.envelope(message, saga_id(definition.name, str(now)), now,",
            ),
        ),
        ("I1 ", "I2 ", "I10 ", "deadline gate", "I8 "),
    ),
}


# What a participant does with commands that meet parked ones: these need actions and compensations that share a lane.
LANES = {
    "i09-compensation-waits-behind-its-own-action": Bug(
        Triage, "_overtakes", (("    return key.action not in", "    return False and key.action not in"),), ("I9 ",)
    ),
    "i02-command-sent-again-is-dropped": Bug(
        Triage, "_park", (("self._uow.replace_parked(again)", "{_inbox_key(one) for one in again}"),), ("I1 ", "I10 ")
    ),
    "i04-command-sent-again-loses-its-place": Bug(
        MemoryUnitOfWork,
        "replace_parked",
        (
            (
                "self._parked[old.id] = changed",
                "self._parked |= {old.id: None, (id := self._tables.next_parked_id()): replace(changed, id=id)}",
            ),
        ),
        ("I4 ", "I10 "),
    ),
}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("bug", LANES.values(), ids=LANES.keys())
def test_a_planted_bug_among_parked_commands_is_found(bug: Bug, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, bug.owner, bug.name, *bug.changes)
    with pytest.raises(LawBroken) as broken:
        simulate(RentCars, runs=RUNS, seed=1)
    assert str(broken.value).startswith(bug.laws), str(broken.value)


@pytest.mark.timeout(300)
def test_i04_a_compensation_that_overtakes_although_it_has_something_to_undo_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plant(monkeypatch, Triage, "_overtakes", ("key.action not in self._carried_out and", "True or"))
    plant(monkeypatch, HandlerTurn, "_without_handler", ("if id(task) in self._overtaking:", "if False:"))
    with pytest.raises(LawBroken, match=r"^I4 "):
        simulate(RentCars, runs=RUNS, seed=1)


@pytest.mark.timeout(300)
def test_i06_two_orchestrators_without_lock_and_fence_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, MemoryUnitOfWork, "load_sagas", ('self._lock(("saga", id))', "pass"))
    changed = "if (0 if stored is None else stored.seq) != change.before_seq:"
    plant(monkeypatch, MemoryUnitOfWork, "_save", (changed, "if False:"))
    with pytest.raises(LawBroken, match=r"^(I6|I7) "):
        simulate(BookTrip, runs=RUNS, seed=1)


@pytest.mark.timeout(300)
def test_a24_a_reply_that_is_taken_whatever_generation_it_answers_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, match, "_by_context", ("if state.generation != context.generation:", "if False:"))
    with pytest.raises(LawBroken, match=r"^reply matching"):
        simulate(MoveHouse, runs=RUNS, seed=1)


@pytest.mark.timeout(300)
def test_a23_a_deadline_that_passes_a_gate_that_closed_before_it_fell_due_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plant(monkeypatch, Timekeeper, "_commit", ("if _due_steps(instance, now) <= due[id]:", "if True:"))
    with pytest.raises(LawBroken, match=r"^deadline gate"):
        simulate(
            BookTrip,
            runs=2 * RUNS,
            seed=300,
            faults=[Fault.FREEZE, Fault.DELAY, Fault.BROKER_OUTAGE],
        )


@pytest.mark.timeout(300)
@pytest.mark.parametrize("bug", BUGS.values(), ids=BUGS.keys())
def test_a_planted_bug_is_found(bug: Bug, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, bug.owner, bug.name, *bug.changes)
    with pytest.raises(LawBroken) as broken:
        simulate(PlaceOrder, runs=RUNS, seed=1)
    text = str(broken.value)
    assert text.startswith(bug.laws), text
    assert "simulate(PlaceOrder, seed=" in text
    assert "sequenceDiagram" in text
