"""Making clients, and hearing from librdkafka: its log lines, and whether a broker answers.

Its log goes to the logger ``kafkasaga.kafka``. It repeats itself for every broker and every attempt to connect, so such
lines are for debugging only; that Kafka was lost is said once, and once that it is back.
"""

# ruff: noqa: SLF001 - librdkafka gives the errors of its own making names that begin with an underscore

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

from confluent_kafka import KafkaError, KafkaException

from kafkasaga.errors import BrokerRefused, BrokerUnavailable, ConfigurationError
from kafkasaga.kafka.config import KafkaConfig
from kafkasaga.kafka.properties import nearest

logger = logging.getLogger("kafkasaga.kafka")

_Client = TypeVar("_Client")

LATELY_SECONDS: Final = 120.0
"""After an outage of all brokers, so long may its after-effects on the group last."""
PROBE_SECONDS: Final = 2.0
"""Between two questions to a broker that does not answer."""
PROBE_TIMEOUT: Final = 1.0
"""Seconds for the answer; there is nothing else to do then."""
REMEMBERED: Final = 1_000
"""Texts, some with numbers in them; beyond, one may be repeated too early."""
REPEAT_SECONDS: Final = 60.0
"""Before the same trouble is logged again."""

_REMEDIES: Final[Mapping[int, str]] = {
    KafkaError._AUTHENTICATION: "check sasl.mechanism, sasl.username and sasl.password in KAFKASAGA_KAFKA",
    KafkaError._SSL: (
        "check ssl.ca.location in KAFKASAGA_KAFKA (the authority that signed the brokers' certificates), and that "
        "these name the hosts of KAFKASAGA_BOOTSTRAP_SERVERS"
    ),
}
"""Errors that no waiting repairs."""
_ELAPSED: Final = re.compile(r" \(after \d+ms in state \w+\)|, \d+ identical error\(s\) suppressed")
"""What differs each time that librdkafka says the same."""

_CONNECTION_FACILITIES: Final = frozenset({"FAIL", "ERROR", "FATAL", "REQTMOUT", "SESSTMOUT", "HBFAIL", "MAXPOLL"})
"""What librdkafka also reports as an error; we log that."""


_GAPLESS: Final = "enable.gapless.guarantee is experimental"
"""Said of every stream; what we need of it is tested."""
_LEADERLESS: Final = "new leader-1 not found"
"""librdkafka (2.12 to 2.16) says this when a partition had no leader for a moment, as while its only broker shuts down.
Its producer then never writes to that partition again, and tells nobody (librdkafka issue 5430)."""


class Voice:
    """What one client says beside its messages. Once another has taken its place, it changes nothing any more.

    One that is being closed may still have something to say, from whatever thread closes it.
    """

    def __init__(self, link: Link) -> None:
        self._link, self._config = link, link.config

    @property
    def _counts(self) -> bool:
        return self._link.voice is self

    def error(self, error: KafkaError) -> None:
        """The client's error callback."""
        if self._counts:
            self._link.on_error(error)

    def log(self, level: int, form: str, *values: Any) -> None:
        """Of ``logging.Logger``, whose place it takes, librdkafka's binding calls only this."""
        facility, text = values[0] if values else "", form % values
        if facility in _CONNECTION_FACILITIES or (facility == "CONFWARN" and _GAPLESS in text):
            level = logging.DEBUG
        if facility == "SESSTMOUT" and self._counts:
            self._link.lost_its_session()
        if facility == "METADATAUPDATE" and _LEADERLESS in text and self._counts:
            self._link.lost_a_leader = True
        logger.log(level, "librdkafka: %s", self._config.masked(text))


class Link:
    """What is known of the connection to Kafka of one client, or of the one that has taken its place."""

    def __init__(self, config: KafkaConfig, role: str) -> None:
        self.config = config
        self.fatal: str | None = None
        """Why the client can do nothing any more."""
        self.refusal: str | None = None
        """Why no broker lets us in, or why we do not trust any, and what to do; None when one answered since."""
        self.reason: str | None = None
        """Why the last connection failed, in librdkafka's words."""
        self.lost_a_leader = False
        """Whether the client will never write to some partition again, although Kafka is there."""
        self.voice = Voice(self)
        """That of the present client."""
        self._role = role
        self._names = (role, config.bootstrap_servers)
        self._suspected = False
        self._lost = False
        self._probed = -PROBE_SECONDS
        self._down_at = float("-inf")
        self._said: dict[str, float] = {}

    def open(self, kind: Callable[[dict[str, Any]], _Client], settings: Mapping[str, Any]) -> _Client:
        """A client that reports here, and from now on no other one does.

        Raises:
            ConfigurationError: if librdkafka refuses a setting.
        """
        self.voice = voice = Voice(self)
        self.fatal, self.lost_a_leader = None, False
        own = {"logger": voice, "error_cb": voice.error}
        try:
            return kind({**settings, **own})
        except KafkaException as error:
            raise refused(error, self.config) from None

    def on_error(self, error: KafkaError) -> None:
        """What the client reports beside its messages."""
        if error.fatal() or error.code() == KafkaError._FATAL:
            self.fatal = self.fatal or self.config.masked(error.str())
        elif error.code() == KafkaError._ALL_BROKERS_DOWN:
            self._suspected = True
            self._down_at = time.monotonic()
        elif (remedy := _REMEDIES.get(error.code())) is not None:
            said = self.config.masked(_ELAPSED.sub("", error.str()))
            self.refusal = f"Kafka at {self.config.bootstrap_servers} cannot be used: {said}; {remedy}"
        elif error.code() in (KafkaError._RESOLVE, KafkaError._TRANSPORT):
            self.reason = self.config.masked(_ELAPSED.sub("", error.str()))
            if error.code() == KafkaError._RESOLVE and self._role != "admin":  # its caller says it
                self.trouble(f"Kafka at {self.config.bootstrap_servers} cannot be reached: {error.str()}")
        else:
            logger.debug("%s: %s", self._role, self.config.masked(error.str()))

    def lost_its_session(self) -> None:
        """Its coordinator was silent for too long: frozen, with connections that stay; or this process was."""
        self._down_at = time.monotonic()

    @property
    def was_down_lately(self) -> bool:
        """Whether the brokers were all away a short while ago, or still are."""
        return time.monotonic() < self._down_at + LATELY_SECONDS

    def probe(self, client: Any) -> None:
        """After librdkafka said that all brokers are down, ask now and then: it does not say when one is back.

        Only an answer counts. What it said may have waited in its queue since before Kafka came back, as records and
        delivery reports may have since before Kafka went.
        """
        if self.refusal is not None:
            self.trouble(self.refusal)
            self.refusal = None
        if not self._suspected or time.monotonic() < self._probed + PROBE_SECONDS:
            return
        try:
            client.list_topics(timeout=PROBE_TIMEOUT)
        except KafkaException:
            if not self._lost:
                logger.error(  # noqa: TRY400 - librdkafka's exception says nothing more
                    "%s: no broker at %s answers; work is kept and goes on when one does", *self._names
                )
            self._lost = True
        else:
            if self._lost:
                logger.warning("%s: Kafka at %s answers again", *self._names)
            self._lost = self._suspected = False
        self._probed = time.monotonic()

    def unavailable(self, error: KafkaException, doing: str) -> BrokerUnavailable:
        """A broker that did not answer, or will not."""
        if self.refusal is not None:
            return BrokerRefused(self.refusal)
        text = self.reason or self.config.masked(code_of(error).str())
        return BrokerUnavailable(f"Kafka at {self.config.bootstrap_servers} did not answer while {doing}: {text}")

    def trouble(self, text: str) -> None:
        """Log an error that will pass or be repaired, once a minute."""
        now = time.monotonic()
        if now >= self._said.get(text, now):
            if len(self._said) >= REMEMBERED:
                self._said.clear()
            self._said[text] = now + REPEAT_SECONDS
            logger.error("%s: %s", self._role, self.config.masked(text))


def code_of(error: KafkaException) -> KafkaError:
    """The error that an exception carries."""
    kafka_error: KafkaError = error.args[0]
    return kafka_error


def refused(error: KafkaException, config: KafkaConfig) -> ConfigurationError:
    """The refusal of a setting, with the setting that was probably meant."""
    text = config.masked(code_of(error).str())
    file = next((name for name in config.raw if name.endswith(".location") and f"{name} failed" in text), None)
    if file is not None:
        return ConfigurationError(
            f"Kafka settings: {file}={config.raw[file]} cannot be used; is it there, readable, and PEM? ({text})"
        )
    unknown = next((name for name in config.raw if f'"{name}"' in text and "No such" in text), None)
    if unknown is None:
        return ConfigurationError(f"Kafka settings: {text}")
    near = nearest(unknown)
    hint = f"did you mean {near}?" if near else "see librdkafka's CONFIGURATION.md for the settings it has"
    return ConfigurationError(f"Kafka settings: {unknown} is not a setting of librdkafka; {hint}")
