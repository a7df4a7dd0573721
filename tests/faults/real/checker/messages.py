"""Laws of the topics: every message that was committed is there, is read, is one message, and has its place."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator

from tests.faults.real.checker.evidence import READS, Evidence, Record


def numbers(records: Iterable[Record]) -> dict[str, list[int]]:
    """The readings of each meter, in the order of the records."""
    found: dict[str, list[int]] = defaultdict(list)
    for record in records:
        found[record.key].append(json.loads(record.body or b"{}")["number"])
    return found


def lost_messages(evidence: Evidence) -> Iterator[str]:
    """What was committed and never published."""
    published = {record.id for record in evidence.records}
    answered = {(record.topic, record.headers.get("ce_sagaid")) for record in evidence.records}
    for saga in evidence.sagas:
        for entry in saga.log:
            sent = entry.body.get("command_id")
            if sent is not None and sent not in published:
                yield f"{saga.name} {saga.key}: {entry.kind} {entry.body['message']} {sent} is in no topic"
    for reply in evidence.replies:
        if (reply.topic, reply.saga) not in answered:
            yield f"the reply {reply.topic} to {reply.step} of saga {reply.saga} is in no topic"


def unread_messages(evidence: Evidence) -> Iterator[str]:
    """What was published and never handled by a service that reads it."""
    for service, topics in READS.items():
        inbox = evidence.inboxes.get(service, set())
        for topic in topics:
            for id in {(record.source, record.id) for record in evidence.of(topic)} - inbox:
                yield f"{service} has never handled {topic} {id[1]}"
    for service, count in evidence.unread.items():
        if count:
            yield f"{service} has not read {count} records"


def lost_readings(evidence: Evidence) -> Iterator[str]:
    places = {
        "meter.reading": numbers(evidence.of("meter.reading")),
        "meter.taken": numbers(evidence.of("meter.taken")),
        "the rows": rows(evidence),
    }
    for name, last in evidence.readings.items():
        for where, found in places.items():
            if missing := sorted(set(range(1, last + 1)) - set(found.get(name, []))):
                yield f"{name}: {len(missing)} readings are missing in {where}: {missing[:5]}"


def rows(evidence: Evidence) -> dict[str, list[int]]:
    """The readings of each meter, in the order in which they were handled."""
    found: dict[str, list[int]] = defaultdict(list)
    for name, number in evidence.taken:
        found[name].append(number)
    return found


def doubled_messages(evidence: Evidence) -> Iterator[str]:
    """Two contents under one id; two ids for one thing; an effect without a message."""
    contents: dict[tuple[str, str], set[tuple[str, str, bytes | None]]] = defaultdict(set)
    for record in evidence.records:
        contents[record.source, record.id].add((record.topic, record.key, record.body))
    for (_, id), known in contents.items():
        if len(known) > 1:
            yield f"message {id} has {len(known)} contents"
    for topic in ("order.created", "order.completed", "order.cancelled", "order.rejected"):
        ids: dict[str, set[str]] = defaultdict(set)
        for record in evidence.of(topic):
            ids[record.key].add(record.id)
        yield from (f"{topic} {key}: {len(known)} different messages" for key, known in ids.items() if len(known) > 1)
    ids_of: dict[tuple[str, str, int], set[str]] = defaultdict(set)
    for topic in ("meter.reading", "meter.taken"):
        for record in evidence.of(topic):
            ids_of[topic, record.key, json.loads(record.body or b"{}")["number"]].add(record.id)
    yield from (
        f"{topic} {name} {number}: {len(known)} different messages"
        for (topic, name, number), known in ids_of.items()
        if len(known) > 1
    )
    for service, inbox in evidence.inboxes.items():
        for _, id in inbox - contents.keys():
            yield f"{service} has handled message {id}, which is in no topic"


def doubled_readings(evidence: Evidence) -> Iterator[str]:
    for name, found in rows(evidence).items():
        if len(found) > len(set(found)):
            again = sorted(number for number in set(found) if found.count(number) > 1)
            yield f"{name}: handled more than once: {again[:5]}"
        if unknown := set(found) - set(range(1, evidence.readings.get(name, 0) + 1)):
            yield f"{name}: readings that nobody sent: {sorted(unknown)[:5]}"


def reordered_messages(evidence: Evidence) -> Iterator[str]:
    """A key in two partitions; of a key, a later message before an earlier one. Repetitions are allowed."""
    partitions: dict[tuple[str, str], set[int]] = defaultdict(set)
    for record in evidence.records:
        partitions[record.topic, record.key].add(record.partition)
    yield from (f"{topic} {key} is in {len(p)} partitions" for (topic, key), p in partitions.items() if len(p) > 1)
    sequences = {
        "meter.reading": numbers(evidence.of("meter.reading")),
        "meter.taken": numbers(evidence.of("meter.taken")),
        "the rows": rows(evidence),
    }
    for where, found in sequences.items():
        for name, sequence in found.items():
            if (wrong := first_out_of_order(sequence)) is not None:
                yield f"{name} in {where}: {wrong[1]} before {wrong[0]}"
    yield from _reordered_commands(evidence)


def _reordered_commands(evidence: Evidence) -> Iterator[str]:
    """A saga's commands to one topic, as its log has them."""
    sent: dict[str, tuple[str, int]] = {}
    for saga in evidence.sagas:
        for entry in saga.log:
            if (id := entry.body.get("command_id")) is not None:
                sent[id] = (saga.id, entry.seq)
    found: dict[tuple[str, str], list[int]] = defaultdict(list)
    for record in evidence.records:
        if record.id in sent:
            saga_id, seq = sent[record.id]
            found[record.topic, saga_id].append(seq)
    for (topic, saga_id), sequence in found.items():
        if (wrong := first_out_of_order(sequence)) is not None:
            yield f"saga {saga_id} in {topic}: the command of entry {wrong[1]} before that of {wrong[0]}"


def first_out_of_order(sequence: list[int]) -> tuple[int, int] | None:
    """The first number that comes for the first time after a greater one, and that one."""
    greatest = 0
    seen: set[int] = set()
    for number in sequence:
        if number not in seen and number < greatest:
            return number, greatest
        seen.add(number)
        greatest = max(greatest, number)
    return None


def duplicates(evidence: Evidence) -> dict[str, int]:
    """By topic: records that repeat an earlier one, as at-least-once allows."""
    counts: dict[str, int] = defaultdict(int)
    seen: set[tuple[str, str, str]] = set()
    for record in evidence.records:
        if (identity := (record.topic, record.source, record.id)) in seen:
            counts[record.topic] += 1
        seen.add(identity)
    return dict(counts)
