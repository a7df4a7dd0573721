"""A broker that is warm: Java compiles the broker's code while it runs, and that takes longer than a round."""

from __future__ import annotations

import threading
import time
from itertools import count
from typing import Final

from confluent_kafka import Consumer, Producer

TOPIC: Final = "bench-warmth"
PARTITIONS: Final = 8
UNDER_WAY: Final = 32
"""Requests at once: as many as keep the broker busy."""
WINDOW: Final = 3.0
"""Seconds of which the rates are compared."""
SETTLED: Final = 1.05
"""A window that is not so many times as fast as the fastest before it ends the warm-up."""
LONGEST: Final = 60.0


def warm(bootstrap_servers: str) -> None:
    """Lone messages in and out, as many as there is time for, until that gets no faster: each is a request or two."""
    producer = Producer(
        {"bootstrap.servers": bootstrap_servers, "acks": "all", "linger.ms": 0, "batch.num.messages": 1}
    )
    stopping, room = threading.Event(), threading.Semaphore(UNDER_WAY)
    reading = threading.Thread(target=_read, args=(bootstrap_servers, stopping), daemon=True)
    reading.start()
    numbers, end, fastest = count(), time.monotonic() + LONGEST, 0.0
    while time.monotonic() < end:
        rate = _rate(producer, room, numbers)
        if rate < fastest * SETTLED:
            break
        fastest = max(fastest, rate)
    producer.flush(10)
    stopping.set()
    reading.join()


def _rate(producer: Producer, room: threading.Semaphore, numbers: count[int]) -> float:
    """Messages a second, during one window."""
    began, sent = time.monotonic(), 0
    while time.monotonic() < began + WINDOW:
        while not room.acquire(blocking=False):
            producer.poll(0.01)
        number = next(numbers)
        producer.produce(
            TOPIC, b"x" * 200, partition=number % PARTITIONS, on_delivery=lambda _error, _message: room.release()
        )
        sent += 1
    return sent / (time.monotonic() - began)


def _read(bootstrap_servers: str, stopping: threading.Event) -> None:
    consumer = Consumer(
        {"bootstrap.servers": bootstrap_servers, "group.id": TOPIC, "auto.offset.reset": "earliest", "log_level": 3}
    )
    consumer.subscribe([TOPIC])
    while not stopping.is_set():
        consumer.consume(1000, 0.1)
    consumer.close()
