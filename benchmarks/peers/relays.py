"""Those who publish an outbox: for the workloads relay and latency."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.ours.relayed import Placed
from benchmarks.peers import debezium_relay, faststream_relay, watermill_relay
from benchmarks.workloads.relay import Relay


@dataclass(frozen=True, slots=True)
class Peer:
    """One way to run a library of others."""

    relay: Callable[[int], Relay]
    """For messages of so many bytes."""
    writer: Callable[[str], Callable[[Placed], None]]
    """Commits one row to the database behind a URL, as its own publisher does."""
    fetch: Callable[[], object]


PEERS = {
    "Watermill forwarder": Peer(watermill_relay.Watermill, watermill_relay.writer, watermill_relay.fetch),
    "Debezium engine": Peer(debezium_relay.Debezium, debezium_relay.writer, debezium_relay.fetch),
    "faststream-outbox": Peer(faststream_relay.FastStream, faststream_relay.writer, faststream_relay.fetch),
    "faststream-outbox, 32 workers": Peer(
        lambda size: faststream_relay.FastStream(size, workers=32), faststream_relay.writer, faststream_relay.fetch
    ),
}
