"""Reading everything: plain SQL, and a consumer of our own."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any

import psycopg
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from tests.faults.real.checker.evidence import (
    READS,
    TOPICS,
    Entry,
    Evidence,
    Order,
    Record,
    Reply,
    Reservation,
    Saga,
    Stock,
)

ANSWER_SECONDS = 120.0
AT_ONCE = 5_000


def gather(evidence: Evidence, bootstrap_servers: str, urls: Mapping[str, str]) -> Evidence:
    """Fill ``evidence``, which holds what was asked for; everything should be at rest."""
    evidence.records, ends = read_topics(bootstrap_servers)
    for service, url in urls.items():
        with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
            _library(evidence, connection, service, ends)
            if service in _BUSINESS:
                _BUSINESS[service](evidence, connection)
    return evidence


# ---- Kafka


def _consumer(bootstrap_servers: str) -> Consumer:
    settings: dict[str, Any] = {
        "bootstrap.servers": bootstrap_servers,
        "group.id": "fault-checker",
        "enable.auto.commit": False,
        "enable.partition.eof": True,
        "log_level": 3,
    }
    return Consumer(settings)


def topic_ends(bootstrap_servers: str) -> dict[tuple[str, int], int]:
    """Where each partition ends."""
    with closing(_consumer(bootstrap_servers)) as consumer:
        return _ends(consumer)


def read_topics(bootstrap_servers: str) -> tuple[list[Record], dict[tuple[str, int], int]]:
    """Every record, of each partition in order; and where the partitions end."""
    with closing(_consumer(bootstrap_servers)) as consumer:
        ends = _ends(consumer)
        records = list(_read(consumer, ends))
    order = {place: position for position, place in enumerate(ends)}
    records.sort(key=lambda record: (order[record.topic, record.partition], record.offset))
    return records, ends


def _ends(consumer: Consumer) -> dict[tuple[str, int], int]:
    known = consumer.list_topics(timeout=ANSWER_SECONDS).topics
    ends: dict[tuple[str, int], int] = {}
    for place in [(topic, number) for topic in TOPICS for number in known[topic].partitions]:
        low, ends[place] = consumer.get_watermark_offsets(TopicPartition(*place), timeout=ANSWER_SECONDS)
        assert low == 0, f"{place}: Kafka has deleted records, so nothing can be said"
    return ends


def _read(consumer: Consumer, ends: Mapping[tuple[str, int], int]) -> Iterator[Record]:
    consumer.assign([TopicPartition(*place, 0) for place in ends])
    reading = set(ends)
    while reading:
        messages = consumer.consume(AT_ONCE, 1.0)
        for message in messages:
            error = message.error()
            if error is None:
                yield _record(message)
            elif error.code() == KafkaError._PARTITION_EOF:
                reading.discard((message.topic() or "", message.partition() or 0))
            elif not error.retriable():
                raise KafkaException(error)


def _record(message: Any) -> Record:
    headers = {name: value.decode() for name, value in message.headers() or []}
    return Record(
        message.topic(),
        message.partition(),
        message.offset(),
        (message.key() or b"").decode(),
        headers.get("ce_source", ""),
        headers.get("ce_id", ""),
        message.value(),
        headers,
    )


# ---- databases


def _rows(connection: psycopg.Connection, query: str) -> list[tuple[Any, ...]]:
    return connection.execute(query).fetchall()


def _library(
    evidence: Evidence, connection: psycopg.Connection, service: str, ends: Mapping[tuple[str, int], int]
) -> None:
    """The tables that every service has."""
    evidence.outbox[service] = _rows(connection, "SELECT count(*) FROM outbox")[0][0]
    evidence.blocked[service] = _rows(connection, "SELECT count(*) FROM outbox_block")[0][0]
    parked = "SELECT status || ' ' || consumer || ' ' || topic || ': ' || error FROM parked_message"
    evidence.parked[service] = [text for (text,) in _rows(connection, parked)]
    evidence.inboxes[service] = {
        (source, str(id)) for source, id in _rows(connection, "SELECT source, message_id FROM inbox")
    }
    barrier = "SELECT saga_id, step_path, generation, op, reply_topic FROM barrier WHERE reply_topic <> ''"
    evidence.replies += [Reply(str(id), *rest) for id, *rest in _rows(connection, barrier)]
    read = {
        (topic, number): next
        for topic, number, next in _rows(connection, 'SELECT topic, "partition", "next" FROM consumer_offset')
    }
    mine = {place: end for place, end in ends.items() if place[0] in READS[service]}
    evidence.unread[service] = sum(max(0, end - (read.get(place) or 0)) for place, end in mine.items())
    evidence.sagas += _sagas(connection, service)


def _sagas(connection: psycopg.Connection, service: str) -> list[Saga]:
    logs: dict[str, list[Entry]] = defaultdict(list)
    for id, seq, kind, body in _rows(connection, "SELECT saga_id, seq, kind, body FROM saga_log ORDER BY saga_id, seq"):
        logs[str(id)].append(Entry(seq, kind, json.loads(body)))
    sagas = _rows(connection, "SELECT saga_id, name, key, status, seq FROM saga")
    return [
        Saga(service, str(id), name, key, status, seq, tuple(logs[str(id)])) for id, name, key, status, seq in sagas
    ]


def _order(evidence: Evidence, connection: psycopg.Connection) -> None:
    history: dict[str, set[str]] = defaultdict(set)
    for id, status in _rows(connection, "SELECT order_id, lower(status::text) FROM order_history"):
        history[str(id)].add(status)
    for id, status, total in _rows(connection, "SELECT id, lower(status::text), total FROM customer_order"):
        evidence.orders[str(id)] = Order(status, total, frozenset(history[str(id)]))


def _inventory(evidence: Evidence, connection: psycopg.Connection) -> None:
    for sku, *counts in _rows(connection, "SELECT sku, available, reserved, sold FROM stock"):
        evidence.stock[sku] = Stock(*counts)
    held = "SELECT order_id::text, sku, quantity, lower(status::text) FROM reservation"
    evidence.reservations = [Reservation(*row) for row in _rows(connection, held)]


def _payment(evidence: Evidence, connection: psycopg.Connection) -> None:
    evidence.charges = [(id, amount) for id, amount in _rows(connection, "SELECT order_id::text, amount FROM charge")]
    evidence.refunds = [(id, amount) for id, amount in _rows(connection, "SELECT order_id::text, amount FROM refund")]


def _meter(evidence: Evidence, connection: psycopg.Connection) -> None:
    evidence.taken = [
        (name, number) for name, number in _rows(connection, "SELECT meter, number FROM taken ORDER BY id")
    ]


_BUSINESS = {"order": _order, "inventory": _inventory, "payment": _payment, "meter": _meter}
