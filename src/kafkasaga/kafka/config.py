"""From plain settings to librdkafka's configurations.

The raw mapping goes to librdkafka untouched and wins over our defaults, except where it would break a guarantee: then
``ConfigurationError`` names the setting, the guarantee and the remedy, before anything is started.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from kafkasaga.errors import ConfigurationError
from kafkasaga.kafka.properties import ALIASES, CONSUMER_ONLY, PRODUCER_ONLY, canonical, is_secret

TAKEOVER_SECONDS: Final = 15
"""What is promised of the defaults: by then another replica goes on with the partitions of one that died or froze."""

CONSUMER_DEFAULTS: Final[Mapping[str, Any]] = {
    # A rebalance takes away only what moves; everything else is read on meanwhile.
    "partition.assignment.strategy": "cooperative-sticky",
    # How long the partitions of a dead member wait for it. A restarted static member is back at once. The rest of
    # TAKEOVER_SECONDS is for a surviving one: it hears of it with its next heartbeat, joins, and begins to read.
    "session.timeout.ms": 12_000,
    "heartbeat.interval.ms": 500,
    # Only the database's positions are exact; Kafka's are for monitoring and for a lost database row.
    "enable.auto.commit": True,
    "auto.commit.interval.ms": 500,
    # Bounds the wait for a partition that was just added to the fetch.
    "fetch.wait.max.ms": 100,
    # Bounded read-ahead (I14): librdkafka's defaults hold 64 MB and 100,000 records for each consumer.
    "queued.min.messages": 10_000,
    "queued.max.messages.kbytes": 16_384,
    "fetch.max.bytes": 16_777_216,
}

CONSUMER_FIXED: Final[Mapping[str, Any]] = {
    "enable.auto.offset.store": False,
    # librdkafka would start again at the earliest record without a word; the consumer does, and says what was lost.
    "auto.offset.reset": "error",
    # The only way to know that a partition is read to its end when transaction markers lie there.
    "enable.partition.eof": True,
    "isolation.level": "read_committed",
}

LINGER: Final = "linger.ms"
MESSAGE_TIMEOUT: Final = "message.timeout.ms"

PRODUCER_DEFAULTS: Final[Mapping[str, Any]] = {
    "partitioner": "murmur2_random",
    # Only while there is more to send: the producer sends what lingers before it waits.
    LINGER: 50,
    # Finite, because the time stamp is that of the call: a message that waited longer than the topic's retention would
    # be acknowledged and deleted at once. The relay sends it again with a new one. At most one message of each key is
    # under way, so it cannot overtake.
    MESSAGE_TIMEOUT: 120_000,
    "queue.buffering.max.messages": 50_000,
    "queue.buffering.max.kbytes": 65_536,
}

PRODUCER_FIXED: Final[Mapping[str, Any]] = {"acks": "all", "enable.idempotence": True}

STREAM_DEFAULTS: Final[Mapping[str, Any]] = {
    **PRODUCER_DEFAULTS,
    # The relay goes on with other work before it waits; by then the first requests are to be under way.
    LINGER: 5,
}

STREAM_FIXED: Final[Mapping[str, Any]] = {
    **PRODUCER_FIXED,
    # What follows a message that cannot be sent must not be sent either: no gaps, so one failure ends the producer.
    "enable.gapless.guarantee": True,
    # Each partition's batch is a request of its own: one at a time would be a round trip for each. What is in flight
    # when another message is refused may come twice.
    "max.in.flight.requests.per.connection": 5,
    # A message that is given up for its age leaves a gap. The stream gives up everything together after that time.
    MESSAGE_TIMEOUT: 0,
}

LONE_FIXED: Final[Mapping[str, Any]] = {**PRODUCER_FIXED, "batch.num.messages": 1}

_MAX_MESSAGE_TIMEOUT_MS: Final = 3_600_000
"""An hour: below the retention of any topic that carries commands."""


@dataclass(frozen=True, slots=True)
class _Guard:
    """The values that keep a guarantee; anything else is refused."""

    allowed: tuple[str, ...]
    guarantee: str
    remedy: str = "remove it"


_NOT_SHARED = "it is set apart for each client"
_GUARDS: Final[Mapping[str, _Guard]] = {
    "bootstrap.servers": _Guard((), _NOT_SHARED, "set KAFKASAGA_BOOTSTRAP_SERVERS"),
    "group.id": _Guard((), "a service reads as the group of its own name", "remove it and name the service"),
    "group.instance.id": _Guard((), "it must be unique and stable for each replica", "set KAFKASAGA_INSTANCE_ID"),
    "enable.auto.offset.store": _Guard(("false",), "offsets follow commits (I5)"),
    "offset.store.method": _Guard(("broker",), "offsets follow commits (I5)"),
    "auto.offset.reset": _Guard(("earliest", "smallest", "beginning", "error"), "no message is skipped unread (I2)"),
    "enable.partition.eof": _Guard(("true",), "a deadline waits until the replies are read"),
    "isolation.level": _Guard(("read_committed",), "a message of a rolled-back Kafka transaction takes no effect"),
    "request.required.acks": _Guard(("all", "-1"), "a published message survives the loss of a broker (I2)"),
    "enable.idempotence": _Guard(("true",), "messages of one key keep their order when a send is repeated (I4)"),
    "queuing.strategy": _Guard(("fifo",), "messages of one key keep their order (I4)"),
    "partitioner": _Guard(
        ("murmur2_random", "murmur2"), "a key has one partition, whichever client or language wrote it (I4)"
    ),
    "enable.gapless.guarantee": _Guard(("false",), "one message that cannot be sent stops only its own key (I13)"),
    "delivery.report.only.error": _Guard(("false",), "the outbox forgets only what Kafka acknowledged (I2)"),
    "transactional.id": _Guard((), "the outbox makes messages atomic with the database, not Kafka transactions (I1)"),
    "error_cb": _Guard((), "no lost broker goes unnoticed (I10)", "use the logger kafkasaga.kafka"),
    "logger": _Guard((), "no lost broker goes unnoticed (I10)", "use the logger kafkasaga.kafka"),
    "test.mock.num.brokers": _Guard((), "all clients speak with one broker", "use kafkasaga.testing's EmbeddedKafka"),
}
"""By canonical name."""


class KafkaSettings(Protocol):
    """The part of the settings that concerns Kafka; ``kafkasaga.settings.Settings`` is one."""

    @property
    def bootstrap_servers(self) -> str:
        """``host:port``, several with commas."""
        ...

    @property
    def kafka(self) -> Mapping[str, Any]:
        """Settings for librdkafka."""
        ...

    @property
    def instance_id(self) -> str | None:
        """Stable and unique for each replica: after a crash it takes its partitions over at once."""
        ...


@dataclass(frozen=True, slots=True)
class KafkaConfig:
    """How to reach Kafka, and as whom, checked: it can be made only from settings that keep every guarantee."""

    bootstrap_servers: str
    raw: Mapping[str, Any] = field(repr=False)
    instance_id: str | None
    client_id: str

    @classmethod
    def of(cls, settings: KafkaSettings, client_id: str = "kafkasaga") -> KafkaConfig:
        """The configuration that ``settings`` ask for; brokers name its clients ``client_id`` in logs and quotas.

        Raises:
            ConfigurationError: if a raw setting would break a guarantee; the text lists all that would.
        """
        if not settings.bootstrap_servers:
            raise ConfigurationError("Kafka's address is missing; set KAFKASAGA_BOOTSTRAP_SERVERS to host:port")
        return cls(settings.bootstrap_servers, settings.kafka, settings.instance_id, client_id)

    def __post_init__(self) -> None:
        problems = [*_addresses(self.bootstrap_servers), *_twice(self.raw), *_broken_guarantees(self.raw)]
        if self.instance_id and str(self.raw.get("group.protocol", "classic")).lower() == "consumer":
            problems.append(
                "group.protocol=consumer together with an instance id: a replica that died without leaving is refused "
                "until its session ends; remove group.protocol, or unset KAFKASAGA_INSTANCE_ID"
            )
        if problems:
            raise ConfigurationError("\n".join(["Kafka settings:", *(f"  {problem}" for problem in problems)]))

    @property
    def cooperative(self) -> bool:
        """Whether partitions are assigned one by one rather than all at once."""
        strategy = str(self.raw.get("partition.assignment.strategy", "cooperative"))
        return "cooperative" in strategy or str(self.raw.get("group.protocol", "")).lower() == "consumer"

    def consumer(self, group: str) -> dict[str, Any]:
        """The configuration of a member of ``group``."""
        defaults = dict(CONSUMER_DEFAULTS)
        if str(self.raw.get("group.protocol", "")).lower() == "consumer":
            # There these are the broker's to decide, and librdkafka refuses them.
            for name in ("partition.assignment.strategy", "session.timeout.ms", "heartbeat.interval.ms"):
                del defaults[name]
        identity = {"group.id": group, **({"group.instance.id": self.instance_id} if self.instance_id else {})}
        return self._merged(defaults, {**identity, **CONSUMER_FIXED}, leave_out=PRODUCER_ONLY)

    def producer(self) -> dict[str, Any]:
        """The configuration of a producer."""
        return self._merged(PRODUCER_DEFAULTS, PRODUCER_FIXED, leave_out=CONSUMER_ONLY)

    def stream(self) -> dict[str, Any]:
        """The configuration of a producer that leaves no gaps: nothing arrives behind a message that did not."""
        return self._merged(STREAM_DEFAULTS, STREAM_FIXED, leave_out=CONSUMER_ONLY)

    @property
    def message_seconds(self) -> float:
        """How long a message may be under way with one time stamp."""
        given = (value for name, value in self.raw.items() if canonical(name) == MESSAGE_TIMEOUT)
        return int(next(given, PRODUCER_DEFAULTS[MESSAGE_TIMEOUT])) / 1000

    def lone(self) -> dict[str, Any]:
        """The configuration of a producer that sends every message in a batch of its own."""
        return self._merged(PRODUCER_DEFAULTS, LONE_FIXED, leave_out=CONSUMER_ONLY)

    def admin(self) -> dict[str, Any]:
        """The configuration of an admin client."""
        return self._merged({}, {}, leave_out=CONSUMER_ONLY | PRODUCER_ONLY)

    def shown(self) -> dict[str, str]:
        """The settings for people to see: secrets are masked."""
        raw = {name: "***" if is_secret(name) else str(value) for name, value in sorted(self.raw.items())}
        return {"bootstrap.servers": self.bootstrap_servers, "client.id": self.client_id, **raw}

    def masked(self, text: str) -> str:
        """``text`` without the secrets that librdkafka may have quoted."""
        for name, value in self.raw.items():
            if is_secret(name) and str(value):
                text = text.replace(str(value), "***")
        return text

    def _merged(
        self, defaults: Mapping[str, Any], fixed: Mapping[str, Any], *, leave_out: frozenset[str]
    ) -> dict[str, Any]:
        given = {name: _plain(value) for name, value in self.raw.items() if name not in leave_out}
        named = {canonical(name) for name in given}
        config = {"bootstrap.servers": self.bootstrap_servers, "client.id": self.client_id, **defaults}
        merged = {name: value for name, value in config.items() if canonical(name) not in named} | given
        held = {canonical(name) for name in fixed}
        return {name: value for name, value in merged.items() if canonical(name) not in held} | dict(fixed)


def _plain(value: Any) -> Any:
    """JSON's true is librdkafka's ``true``, not Python's ``True``."""
    return str(value).lower() if isinstance(value, bool) else value


_ADDRESS: Final = re.compile(
    r"((PLAINTEXT|SSL|SASL_PLAINTEXT|SASL_SSL)://)?([\w.-]+|\[[0-9a-fA-F:.%]+\])(:[0-9]{1,5})?"
)


def _addresses(servers: str) -> list[str]:
    """What of the bootstrap servers librdkafka would never reach, and would not say why."""
    wrong = [address for address in map(str.strip, servers.split(",")) if address and not _ADDRESS.fullmatch(address)]
    return [
        f"bootstrap_servers: {address!r} is no address of a broker; write host:port, several with commas "
        "(KAFKASAGA_BOOTSTRAP_SERVERS, --bootstrap-servers)"
        for address in wrong
    ]


def _twice(raw: Mapping[str, Any]) -> list[str]:
    return [
        f"{alias} and {name} are one setting, given twice; remove one of them"
        for alias, name in ALIASES.items()
        if alias in raw and name in raw
    ]


def _broken_guarantees(raw: Mapping[str, Any]) -> list[str]:
    problems: list[str] = []
    for name, value in raw.items():
        guard = _GUARDS.get(canonical(name))
        if guard is not None and str(value).strip().lower() not in guard.allowed:
            shown = f"{name}={value}" if isinstance(value, str | int | float) else name
            problems.append(f"{shown} would break a guarantee: {guard.guarantee}; {guard.remedy}")
        if canonical(name) == MESSAGE_TIMEOUT and not _is_within(value, _MAX_MESSAGE_TIMEOUT_MS):
            problems.append(
                f"{name}={value} would break a guarantee: no message is sent with a time stamp so old that the "
                f"topic deletes it at once (I2); use 1 to {_MAX_MESSAGE_TIMEOUT_MS} (milliseconds)"
            )
    return problems


def _is_within(value: Any, most: int) -> bool:
    try:
        return 1 <= int(value) <= most
    except (TypeError, ValueError):
        return False
