"""Which settings reach librdkafka, and which are refused."""

import logging
from dataclasses import dataclass
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer

from kafkasaga.errors import ConfigurationError
from kafkasaga.kafka import KafkaConfig, KafkaConsumer, KafkaProducer, silence
from kafkasaga.kafka import link as link_module
from kafkasaga.kafka.config import CONSUMER_DEFAULTS, TAKEOVER_SECONDS
from kafkasaga.kafka.link import Link
from kafkasaga.kafka.silence import Silence
from tests.contract.kafka_kit import Broker


def config(instance_id: str | None = None, **raw: Any) -> KafkaConfig:
    return KafkaConfig.of(
        Broker("127.0.0.1:1", {name.replace("_", "."): value for name, value in raw.items()}, instance_id)
    )


def test_consumer_keeps_its_guarantees() -> None:
    made = config(instance_id="replica-0").consumer("orders")
    assert made["enable.auto.offset.store"] is False
    assert made["auto.offset.reset"] == "error"
    assert made["isolation.level"] == "read_committed"
    assert (made["group.id"], made["group.instance.id"]) == ("orders", "replica-0")


def test_another_replica_hears_of_a_death_well_before_it_should_have_taken_over() -> None:
    session, heartbeat = CONSUMER_DEFAULTS["session.timeout.ms"], CONSUMER_DEFAULTS["heartbeat.interval.ms"]
    to_join_and_to_begin = 2_000
    assert session + heartbeat + to_join_and_to_begin <= TAKEOVER_SECONDS * 1_000
    assert heartbeat * 10 <= session  # some of them may be lost, and nobody is taken for dead


def test_producer_keeps_its_guarantees() -> None:
    made = config().producer()
    assert (made["acks"], made["enable.idempotence"], made["partitioner"]) == ("all", True, "murmur2_random")
    assert "delivery.report.only.error" not in made


@pytest.mark.parametrize("raw", [{"linger.ms": 50}, {"queue.buffering.max.ms": 50}])
def test_users_value_wins_under_either_name(raw: dict[str, Any]) -> None:
    made = KafkaConfig.of(Broker("127.0.0.1:1", raw)).producer()
    assert {name: made[name] for name in made if name in ("linger.ms", "queue.buffering.max.ms")} == raw


def test_each_client_gets_only_its_own_settings() -> None:
    made = config(linger_ms=50, fetch_min_bytes=7, security_protocol="plaintext")
    assert "fetch.min.bytes" not in made.producer()
    assert "linger.ms" not in made.consumer("g")
    assert set(made.admin()) == {"bootstrap.servers", "client.id", "security.protocol"}


def test_json_booleans_are_librdkafkas() -> None:
    assert config(check_crcs=True).consumer("g")["check.crcs"] == "true"


@pytest.mark.parametrize(
    ("raw", "guarantee"),
    [
        ({"enable.auto.offset.store": True}, "I5"),
        ({"auto.offset.reset": "latest"}, "I2"),
        ({"acks": 1}, "I2"),
        ({"request.required.acks": "0"}, "I2"),
        ({"enable.idempotence": False}, "I4"),
        ({"partitioner": "consistent_random"}, "I4"),
        ({"queuing.strategy": "lifo"}, "I4"),
        ({"message.timeout.ms": 0}, "I2"),
        ({"delivery.timeout.ms": "86400000"}, "I2"),
        ({"enable.gapless.guarantee": True}, "I13"),
        ({"delivery.report.only.error": True}, "I2"),
        ({"isolation.level": "read_uncommitted"}, "rolled-back"),
        ({"enable.partition.eof": "false"}, "deadline"),
        ({"transactional.id": "t"}, "I1"),
        ({"group.id": "g"}, "own name"),
        ({"group.instance.id": "i"}, "KAFKASAGA_INSTANCE_ID"),
        ({"bootstrap.servers": "b:1"}, "KAFKASAGA_BOOTSTRAP_SERVERS"),
        ({"metadata.broker.list": "b:1"}, "KAFKASAGA_BOOTSTRAP_SERVERS"),
        ({"error_cb": print}, "I10"),
        ({"test.mock.num.brokers": 1}, "EmbeddedKafka"),
    ],
)
def test_setting_that_would_break_a_guarantee_is_refused(raw: dict[str, Any], guarantee: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        KafkaConfig.of(Broker("127.0.0.1:1", raw))
    (name,) = raw
    assert name in str(error.value)
    assert guarantee in str(error.value)


@pytest.mark.parametrize(
    "raw", [{"acks": "ALL"}, {"acks": -1}, {"auto.offset.reset": "earliest"}, {"partitioner": "murmur2"}]
)
def test_setting_that_keeps_the_guarantee_is_allowed(raw: dict[str, Any]) -> None:
    made = KafkaConfig.of(Broker("127.0.0.1:1", raw))
    Consumer({**made.consumer("g"), "log_level": 0}).close()
    Producer({**made.producer(), "log_level": 0})


def test_all_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(ConfigurationError, match=r"(?s)acks=0.*isolation.level") as error:
        config(acks=0, isolation_level="read_uncommitted")
    assert len(str(error.value).splitlines()) == 3


def test_one_setting_under_both_its_names_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"linger\.ms and queue.buffering.max.ms are one setting"):
        config(linger_ms=1, queue_buffering_max_ms=2)


def test_new_group_protocol_goes_without_but_not_with_an_instance_id() -> None:
    made = config(group_protocol="consumer")
    assert made.cooperative
    Consumer({**made.consumer("g"), "log_level": 0}).close()
    with pytest.raises(ConfigurationError, match=r"group\.protocol=consumer together with an instance id"):
        config(instance_id="i", group_protocol="consumer")


def test_unknown_setting_is_told_with_the_one_that_was_meant() -> None:
    with pytest.raises(
        ConfigurationError, match=r"fetch.wait.ms is not a setting of librdkafka; did you mean fetch.wait"
    ):
        KafkaConsumer(Broker("127.0.0.1:1", {"fetch.wait.ms": 1}), "g")


def test_missing_address_names_the_variable() -> None:
    with pytest.raises(ConfigurationError, match="KAFKASAGA_BOOTSTRAP_SERVERS"):
        KafkaProducer(Broker(""))


def test_secrets_are_not_shown() -> None:
    made = config(sasl_password="hush", ssl_key_password="hush")  # noqa: S106 - to be hidden
    assert "hush" not in repr(made)
    assert made.shown()["sasl.password"] == "***"
    assert made.masked("login with hush failed") == "login with *** failed"


def test_secret_in_librdkafkas_refusal_is_masked() -> None:
    with pytest.raises(ConfigurationError) as error:
        KafkaProducer(Broker("127.0.0.1:1", {"sasl.oauthbearer.config": "hush", "security.protocol": "hush"}))
    assert "hush" not in str(error.value)


def test_librdkafkas_log_is_pythons_and_its_connection_lines_are_for_debugging(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log = Link(config(sasl_password="hush"), "test").voice  # noqa: S106 - to be hidden
    caplog.set_level(logging.DEBUG, "kafkasaga.kafka")
    log.log(logging.WARNING, "%s [%s] %s", "CONFWARN", "c-1", "password hush")
    log.log(logging.ERROR, "%s [%s] %s", "FAIL", "c-1", "connection refused")
    assert [(r.levelname, r.getMessage()) for r in caplog.records] == [
        ("WARNING", "librdkafka: CONFWARN [c-1] password ***"),
        ("DEBUG", "librdkafka: FAIL [c-1] connection refused"),
    ]


@dataclass
class FlakyBroker:
    """Answers or not, as it is told."""

    answers: bool = False
    asked: int = 0

    def list_topics(self, timeout: float) -> None:
        self.asked += 1
        if not self.answers:
            raise KafkaException(KafkaError(KafkaError._TRANSPORT))


def test_lost_and_returned_broker_is_said_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_module, "PROBE_SECONDS", 0.0)
    link = Link(config(), "producer")
    broker = FlakyBroker()
    for answers in (False, False, True, True):
        broker.answers = answers
        link.on_error(KafkaError(KafkaError._ALL_BROKERS_DOWN, "1/1 brokers are down"))
        link.probe(broker)
    assert broker.asked == 4
    assert [r.levelname for r in caplog.records] == ["ERROR", "WARNING"]
    assert "127.0.0.1:1" in caplog.text


def test_broker_that_answers_was_not_lost_whatever_librdkafka_said(caplog: pytest.LogCaptureFixture) -> None:
    link = Link(config(), "producer")
    link.on_error(KafkaError(KafkaError._ALL_BROKERS_DOWN, "1/1 brokers are down"))
    link.probe(FlakyBroker(answers=True))
    assert not caplog.records


def test_the_same_trouble_is_logged_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    link = Link(config(), "consumer g")
    for _ in range(3):
        link.trouble("not authorised")
    assert len(caplog.records) == 1


def test_a_session_that_timed_out_was_an_outage_and_a_fence_alone_is_none() -> None:
    link = Link(KafkaConfig.of(Broker("127.0.0.1:9092")), "consumer")
    link.voice.log(logging.WARNING, "%s [%s] %s", "FENCED", "rdkafka#consumer-1", "[thrd:main]: fenced")
    assert not link.was_down_lately
    link.voice.log(logging.WARNING, "%s [%s] %s", "SESSTMOUT", "rdkafka#consumer-1", "[thrd:main]: timed out")
    assert link.was_down_lately


def test_a_client_that_lost_a_leader_for_good_is_known_by_what_librdkafka_says() -> None:
    link = Link(config(), "test")
    log = link.voice
    log.log(30, "%s [%s] %s", "METADATAUPDATE", "p-1", "Partition orders(x)[2]: new leader1 found")
    assert not link.lost_a_leader
    log.log(30, "%s [%s] %s", "METADATAUPDATE", "p-1", "Partition orders(x)[2]: new leader-1 not found in cache")
    assert link.lost_a_leader


def test_what_a_replaced_client_still_says_changes_nothing() -> None:
    """As from the thread that closes it."""
    link = Link(config(), "test")
    old, new = link.open(dict, {}), link.open(dict, {})
    for client in (old, new):
        assert (link.fatal, link.lost_a_leader, link.was_down_lately) == (None, False, False)
        client["error_cb"](KafkaError(KafkaError._FATAL, "fenced", fatal=True))
        client["error_cb"](KafkaError(KafkaError._ALL_BROKERS_DOWN, "1/1 brokers are down"))
        client["logger"].log(30, "%s [%s] %s", "METADATAUPDATE", "p-1", "t [0]: new leader-1 not found in cache")
    assert (link.fatal, link.lost_a_leader, link.was_down_lately) == ("fenced", True, True)
    link.open(dict, {})
    assert (link.fatal, link.lost_a_leader) == (None, False), "a new client begins anew"


def test_the_client_that_asks_whether_there_is_a_broker_takes_nobodys_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(silence, "PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr(silence, "ANSWER_SECONDS", 0.1)
    link = Link(config(), "test")
    client, voice = FlakyBroker(), link.voice
    assert not Silence(link).is_for_ever(client)
    assert client.asked == 1
    assert link.voice is voice


@pytest.mark.parametrize(
    "servers", ["http://localhost:9092", "localhost:9092/x", "local host:1", "a:b", "a:1,ftp://b:2"]
)
def test_an_address_that_is_none_is_refused_at_once(servers: str) -> None:
    with pytest.raises(ConfigurationError, match="is no address of a broker; write host:port"):
        KafkaConfig.of(Broker(servers, {}))


@pytest.mark.parametrize(
    "servers", ["localhost:9092", "a-1.example.org:1, b:2", "[::1]:9092", "SASL_SSL://b:9093", "kafka"]
)
def test_addresses_of_brokers_are_accepted(servers: str) -> None:
    assert KafkaConfig.of(Broker(servers, {})).bootstrap_servers == servers
