"""A batch that takes longer than a consumer may be silent (``max.poll.interval.ms``)."""

from __future__ import annotations

import threading
from contextlib import closing

from tests.contract.consumer_kit import Noted, bodies
from tests.contract.kafka_kit import WITHIN, Broker, fill, until

SILENT_MS = 6_000


def test_i01_a_batch_that_outlives_its_membership_is_done_by_another_replica_and_takes_effect_once(
    broker: Broker, postgres_url: str
) -> None:
    """The slow one has lost its partition without being told, and commits all the same, or tries to."""
    begun, go_on = threading.Event(), threading.Event()

    def before(_: int) -> None:
        if not begun.is_set():
            begun.set()
            assert go_on.wait(WITHIN)

    topic = broker.topic(1)
    fill(broker, topic, bodies(range(3)))
    settings = broker.having(max_poll_interval_ms=SILENT_MS, session_timeout_ms=SILENT_MS)
    noted = Noted(settings, topic, postgres_url, before)
    handled = threading.Event()

    def live_slowly() -> None:
        with closing(noted.consumer()) as consumer:
            loop = noted.loop(consumer)
            while not handled.is_set():
                loop.step(0.1)

    slow = threading.Thread(target=live_slowly)
    slow.start()
    try:
        assert begun.wait(WITHIN)
        with closing(noted.consumer()) as consumer:
            loop = noted.loop(consumer)
            until(lambda: loop.step(0.1) is not None and loop._held, "another owner")
            go_on.set()
            fill(broker, topic, bodies(range(3, 6)))
            until(lambda: loop.step(0.1) is not None and len(noted.handled()) >= 6, "all messages")
    finally:
        go_on.set()
        handled.set()
        slow.join(WITHIN)
    assert not slow.is_alive()
    assert noted.handled() == list(range(6))
    noted.store.close()
