"""What must hold when nothing moves any more: invariants I1 to I10, as far as they show at the end."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

from kafkasaga.errors import CorruptLog
from kafkasaga.messages import Operation, Record, SagaContext, read_attributes
from kafkasaga.ports import UNMATCHED, InboxKey, TopicPartition
from kafkasaga.saga.instance import Instance, SagaStatus, forgotten
from kafkasaga.saga.transitions import fold
from kafkasaga.testing.simulator import compensation, contents
from kafkasaga.testing.simulator.history import Committed, Effect, Lane, Violation

if TYPE_CHECKING:
    from kafkasaga.testing.simulator.process import Site
    from kafkasaga.testing.simulator.run import Run


def after(run: Run) -> Iterator[Violation]:
    """Everything that is wrong now that the run is over."""
    yield from _nothing_left(run)
    yield from _nothing_lost(run)
    yield from _everything_read(run)
    yield from _written_in_order(run)
    yield from _handled_in_order(run)
    for site in run.sites:
        yield from _logs_fold(run, site)
    for id, instance in run.history.instances.items():
        yield from compensation.check(run, id, instance)
    yield from _users_checks(run)


# ---- I10, I2: nothing silent, nothing lost ------------------------------------------------------------------------


def _nothing_left(run: Run) -> Iterator[Violation]:
    law = "I10 nothing silent"
    visible = {saga for site in run.sites for saga in _sagas_with_parked(run, site)}
    for site in run.sites:
        left, blocked = contents.unsent(site.store), contents.blocked(site.store)
        if left:
            yield Violation(law, f"{left} messages wait in the outbox of {site.name} forever (blocked: {len(blocked)})")
        for message in contents.waiting(site.store):
            yield Violation(law, f"{message.record.topic} is parked at {site.name} and not tried again")
    for id, instance in run.history.instances.items():
        if not instance.status.ended and instance.status is not SagaStatus.STUCK and id not in visible:
            yield Violation(
                law,
                f"saga {instance.key!r} is {instance.status} and nothing will ever move it: "
                + ", ".join(f"{path} is {state.status}" for path, state in instance.steps.items()),
            )


def _sagas_with_parked(run: Run, site: Site) -> Iterator[UUID]:
    """Sagas that an operator sees to be held up: a message of theirs is parked and dead."""
    for message in contents.parked(site.store):
        saga = read_attributes(message.record).saga
        if saga is not None:
            yield saga.saga_id
        yield from (id for id, i in run.history.instances.items() if i.key.encode() == message.record.key)


def _nothing_lost(run: Run) -> Iterator[Violation]:
    for id, sent in run.history.sent.items():
        if id not in run.broker.written:
            yield Violation("I2 no loss", f"{sent.service} committed {sent.envelope.type} {id}, and it never came out")
    for id, records in run.broker.written.items():
        if id not in run.history.sent:
            what = f"{records[0].topic} has {id}, which no transaction that committed has sent"
            yield Violation("I1 atomic effects", what)


def _everything_read(run: Run) -> Iterator[Violation]:
    """Every record was dealt with by everyone who reads its topic: once in effect, or parked where one sees it."""
    done = {(e.effect.service, e.effect.inbox) for e in run.history.effects}
    for site in run.sites:
        inbox, parked, kept = run.history.inbox[site.name], run.history.parked[site.name], _kept(site)
        keys = run.records.get(site.name, {})
        for record in (r for topic in sorted(site.router.topics) for r in run.broker.records(topic)):
            given = keys.get((record.topic, record.partition, record.offset))
            what = f"{site.name} and {record.topic} #{record.offset} of key {_text(record)!r}"
            if given is None:
                yield Violation("I2 no loss", f"{what}: it was never read")
                continue
            for key in given:
                if key not in inbox:
                    yield Violation("I2 no loss", f"{what}: it was read, and no transaction that committed has it")
                elif key in kept or (site.name, key) in done or _answered(run, site, record):
                    pass
                elif key in parked:
                    yield Violation("I10 nothing silent", f"{what}: it was parked, is no more, and nothing came of it")
                else:
                    yield Violation(
                        "I1 atomic effects", f"{what}: the inbox says that it was handled, but nothing came of it"
                    )


def _kept(site: Site) -> set[InboxKey]:
    """What is parked: an operator sees it."""
    return {
        InboxKey(message.consumer.removesuffix(UNMATCHED), message.source, message.message_id)
        for message in contents.parked(site.store)
    }


def _answered(run: Run, site: Site, record: Record) -> bool:
    """The barrier dealt with it, or there was nothing to do: it asked for what had been done, or came too late."""
    attributes = read_attributes(record)
    saga = attributes.saga
    if saga is None:
        return False
    if saga.command_id is not None:
        return True  # a reply to another saga on a shared topic
    about = (saga.saga_id, saga.step, saga.generation)
    replies = [sent.envelope.saga for sent in run.history.sent.values() if sent.service == site.name]
    effects = [e.effect for e in run.history.effects if e.effect.service == site.name and e.effect.saga is not None]
    carried_out = [e for e in effects if e.saga and (e.saga.saga_id, e.saga.step, e.saga.generation) == about]
    if _superseded(replies, saga):
        return True
    if site.name in run.plan.made_up:  # each of these answers every command, unless it keeps silent for good
        named = any(reply is not None and reply.command_id == attributes.id for reply in replies)
        return named or any(effect.reply is None for effect in carried_out) or _replaced(run, site, record, saga)
    answered = any(r is not None and (r.saga_id, r.step, r.generation) == about for r in replies)
    return answered or bool(carried_out)


def _superseded(replies: Sequence[SagaContext | None], asked: SagaContext) -> bool:
    """Its compensation came first, and closed it."""
    return asked.operation is Operation.ACTION and any(
        reply is not None
        and reply.mark is not None
        and reply.operation is Operation.COMPENSATION
        and (reply.saga_id, reply.step, reply.generation) == (asked.saga_id, asked.step, asked.generation)
        for reply in replies
    )


def _replaced(run: Run, site: Site, record: Record, saga: SagaContext) -> bool:
    """A later attempt of it was parked: within one transaction that takes its place."""
    parked = {key.message_id for key in run.history.parked[site.name]}
    first = min(copy.offset for copy in run.broker.written[read_attributes(record).id])
    return any(
        (later := read_attributes(other)).saga == saga and later.id in parked
        for other in run.broker.log(TopicPartition(record.topic, record.partition))[first + 1 :]
        if read_attributes(other).id != read_attributes(record).id
    )


def _text(record: Record) -> str:
    return (record.key or b"").decode("utf-8", "replace")


# ---- I4: key order ------------------------------------------------------------------------------------------------


class _Row(NamedTuple):
    """A message in an outbox and in its topic. Transactions that overlapped have no order among each other."""

    began: int
    committed: int
    number: int
    offset: int


def _written_in_order(run: Run) -> Iterator[Violation]:
    """Of one writer and one key, what was committed first is first in its topic."""
    lanes: dict[Lane, list[_Row]] = defaultdict(list)
    for number, (id, sent) in enumerate(run.history.sent.items()):
        if records := run.broker.written.get(id):
            lane = Lane(sent.service, sent.envelope.topic, sent.envelope.key)
            lanes[lane].append(_Row(sent.began, sent.committed, number, min(r.offset for r in records)))
    for lane, rows in lanes.items():
        by_offset = sorted(rows, key=lambda row: row.offset)
        for n, first in enumerate(by_offset):
            for second in by_offset[n + 1 :]:
                together = second.committed == first.committed
                if second.committed < first.began or (together and second.number < first.number):
                    yield Violation(
                        "I4 key order",
                        f"{lane.who} wrote two messages of key {lane.key!r} to {lane.topic}, "
                        "and the later one is first in the topic",
                    )
                    return


def _handled_in_order(run: Run) -> Iterator[Violation]:
    """Messages of one key take effect in the order of their topic, also where one of them was parked."""
    lanes: dict[Lane, list[Committed]] = defaultdict(list)
    for committed in run.history.effects:
        if committed.effect.lane is not None and committed.effect.inbox.message_id not in run.history.unmatched:
            lanes[committed.effect.lane].append(committed)
    for lane, effects in lanes.items():
        ranks = [_rank(run, committed.effect) for committed in effects]
        wrong = (
            ranks[n] > ranks[m] and not _at_once(effects[n], effects[m]) for m in range(len(ranks)) for n in range(m)
        )
        if ranks != sorted(ranks) and any(wrong):
            yield Violation(
                "I4 key order",
                f"messages of {lane.topic}, key {lane.key!r}, took effect at {lane.who} in the order {ranks} "
                "of their places in the topic",
            )


def _at_once(first: Committed, second: Committed) -> bool:
    """What one transaction does to two sagas has no order."""
    one, other = first.effect.saga, second.effect.saga
    if one is None or other is None or not first.effect.inbox.consumer.startswith("saga:"):
        return False
    return first.at == second.at and one.saga_id != other.saga_id


def _rank(run: Run, effect: Effect) -> int:
    """Where in its topic a message was first; of a command that was sent again, where its first attempt was."""
    records = run.broker.written[effect.inbox.message_id]
    if effect.barrier is None:
        return min(record.offset for record in records)
    assert effect.lane is not None
    asked = effect.barrier
    place = TopicPartition(records[0].topic, records[0].partition)
    return min(
        record.offset
        for record in run.broker.log(place)
        if (saga := read_attributes(record).saga) is not None
        and (saga.saga_id, saga.step, saga.generation, saga.operation) == asked
    )


# ---- I7 -----------------------------------------------------------------------------------------------------------


def _logs_fold(run: Run, site: Site) -> Iterator[Violation]:
    law = "I7 state = fold(log)"
    for id in contents.saga_ids(site.store):
        stored, log = contents.instance(site.store, id), contents.log(site.store, id)
        if contents.pruned(site.store, id):
            yield from _is_what_is_left(run, id, stored)
            continue
        try:
            folded = fold(entry.event for entry in log)
        except CorruptLog as error:
            yield Violation(law, str(error))
            continue
        if folded != stored:
            yield Violation(law, f"the log of saga {id} does not fold to its stored state")
        if [entry.event for entry in log] != [entry.event for entry in run.history.logs[id]]:
            yield Violation(law, f"the log of saga {id} is not what was committed")


def _is_what_is_left(run: Run, id: UUID, stored: Instance | None) -> Iterator[Violation]:
    """Of a saga whose log was forgotten, how it ended."""
    if stored is None or stored != forgotten(run.history.instances[id]):
        yield Violation("I7 state = fold(log)", f"what is left of saga {id} is not how it ended")


def _users_checks(run: Run) -> Iterator[Violation]:
    for name, check in run.plan.check.items():
        try:
            run.plan.databases[name].look(check)
        except AssertionError as error:
            yield Violation(f"your check of {name!r}", str(error) or "it failed")
