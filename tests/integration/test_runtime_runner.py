"""What the composition root does when a part of it dies."""

from __future__ import annotations

import threading

import pytest

from kafkasaga import Message, Service, Settings
from kafkasaga.runtime.relay import Relay
from kafkasaga.stores import create_store
from kafkasaga.stores.migrations import upgrade
from kafkasaga.testing import EmbeddedKafka


class Ping(Message, topic="ping", key="id"):
    id: str


def test_a_loop_that_dies_is_told_to_whom_the_service_runs_beside(
    sqlite_url: str, embedded_kafka: EmbeddedKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = Service("web")
    store = create_store(sqlite_url, service.outbox.tables)
    upgrade(store.engine, store.tables)
    store.close()
    settings = Settings.load(database_url=sqlite_url, bootstrap_servers=embedded_kafka.bootstrap_servers)
    told = threading.Event()

    def die(self: Relay) -> None:
        raise TypeError("a bug")

    monkeypatch.setattr(Relay, "step", die)
    with (
        pytest.raises(TypeError, match="a bug"),
        service.running(settings, roles=["relay"], on_failure=told.set),
    ):
        assert told.wait(30)
