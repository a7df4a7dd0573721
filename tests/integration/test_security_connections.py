"""TLS and passwords, to real servers: who is let in works as ever; who is not is told why, at the start, at once."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url, text

from kafkasaga.stores import create_store
from tests.conftest import started
from tests.integration.runtime_kit import Broker, Program, Shop, command, shop_on, until
from tests.support import KafkaServer, PostgresServer
from tests.support.tiers import Tier
from tests.support.tls import Authority

USER, SECRET, WRONG = "saga", "canary-4711-word", "canary-0815-word"
MECHANISMS = ("PLAIN", "SCRAM-SHA-512")


@dataclass(frozen=True)
class Trust:
    """An authority that signed both servers' certificates, and one that signed none."""

    folder: Path
    authority: Authority
    stranger: Path

    @property
    def certificates(self) -> Path:
        return self.authority.write_to(self.folder)


@pytest.fixture(scope="module")
def trust(tmp_path_factory: pytest.TempPathFactory) -> Trust:
    folder = tmp_path_factory.mktemp("trust")
    return Trust(folder, Authority(), Authority().write_to(folder))


@pytest.fixture(scope="module")
def secure_postgres(trust: Trust) -> Iterator[PostgresServer]:
    certificate = trust.authority.issue("localhost")
    for server in started(Tier.POSTGRESQL, PostgresServer, certificate=certificate):
        server.create_user(USER, SECRET)
        yield server


@pytest.fixture(scope="module")
def secure_kafka(trust: Trust) -> Iterator[KafkaServer]:
    certificate = trust.authority.issue("localhost", "127.0.0.1")
    yield from started(Tier.KAFKA, KafkaServer, certificate=certificate, users={USER: SECRET})


def database_url(server: PostgresServer, trust: Trust, **changed: str) -> str:
    given = {"password": SECRET, "host": "localhost", "sslmode": "verify-full", "sslrootcert": str(trust.certificates)}
    given |= changed
    where = make_url(changed.get("url") or server.create_database()).set(
        username=USER, password=given["password"], host=given["host"]
    )
    tls = {name: given[name] for name in ("sslmode", "sslrootcert")}
    return where.update_query_dict(tls).render_as_string(hide_password=False)


def kafka_settings(trust: Trust, **changed: str) -> dict[str, str]:
    named = {name.replace("_", "."): value for name, value in changed.items()}
    return {
        "security.protocol": "SASL_SSL",
        "ssl.ca.location": str(trust.certificates),
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": USER,
        "sasl.password": SECRET,
        **named,
    }


@pytest.fixture(params=MECHANISMS)
def secure_shop(
    request: pytest.FixtureRequest,
    secure_kafka: KafkaServer,
    secure_postgres: PostgresServer,
    trust: Trust,
    tmp_path: Path,
) -> Iterator[Shop]:
    broker = Broker(secure_kafka.secure_servers, kafka_settings(trust, sasl_mechanism=request.param))
    with shop_on(database_url(secure_postgres, trust), broker, tmp_path / "fault") as shop:
        yield shop


def test_all_of_a_services_life_passes_through_tls_and_a_password_is_never_shown(secure_shop: Shop) -> None:
    """Topics are made, sagas begin, are consumed, relayed and end, by processes that log all there is to log."""
    loud = {"KAFKASAGA_LOG_LEVEL": "DEBUG", "KAFKASAGA_KAFKA": json.dumps(dict(secure_shop.kafka) | {"debug": "all"})}
    status, made = command("topics", "create", "shop:stock", **secure_shop.environment)
    assert (status, made.count("exists")) == (0, 7), made
    with secure_shop.process("stock", **loud) as stock, secure_shop.process("orders", **loud) as orders:
        secure_shop.place("good", "declined")
        until(lambda: len(secure_shop.ended()) == 2, "both sagas end")
        secure_shop.check()
        with secure_shop.engine.connect() as connection:
            found = connection.execute(
                text(
                    "SELECT DISTINCT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) "
                    "WHERE application_name = 'kafkasaga'"
                )
            )
            assert found.scalars().all() == [True]
        outputs = [program.terminate() for program in (stock, orders)]
    assert [status for status, _ in outputs] == [0, 0]
    for _, output in outputs:
        assert "sasl" in output.lower(), "librdkafka's own log is there"
        assert SECRET not in output
    status, shown = command("status", "--prefix", "orders_", **secure_shop.environment)
    assert status == 0, shown
    assert SECRET not in shown


def start_error(environment: Mapping[str, str]) -> str:
    """What a service says that does not start: one message, as one line."""
    program = Program(["run", "shop:stock"], environment)
    try:
        status, output = program.wait()
    finally:
        program.end()
    assert status == 2, output
    assert "Traceback" not in output
    assert SECRET not in output
    assert WRONG not in output
    assert len(output.strip().splitlines()) <= 2, output
    return " ".join(output.split())


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"password": WRONG}, ("password authentication failed", "check the name and the password")),
        ({"sslrootcert": "STRANGER"}, ("certificate verify failed", "set sslrootcert=")),
        ({"sslrootcert": "/nowhere.pem"}, ("/nowhere.pem", "to a file that is there")),
        ({"host": "127.0.0.1"}, ("does not match host name", "use a host")),
        ({"sslmode": "disable"}, ("no pg_hba.conf entry", "or use TLS: sslmode=verify-full")),
    ],
    ids=["password", "authority", "file", "host", "no TLS"],
)
def test_a_database_that_refuses_ends_the_start_with_what_is_wrong(
    secure_postgres: PostgresServer, trust: Trust, changed: dict[str, str], says: tuple[str, str]
) -> None:
    if changed.get("sslrootcert") == "STRANGER":
        changed = {"sslrootcert": str(trust.stranger)}
    url = database_url(secure_postgres, trust, url=secure_postgres.url(), **changed)
    environment = {"KAFKASAGA_DATABASE_URL": url, "KAFKASAGA_BOOTSTRAP_SERVERS": "127.0.0.1:1"}
    message = start_error(environment)
    assert all(part in message for part in says), message
    for other in (["db", "upgrade"], ["status"], ["saga", "list"]):
        status, output = command(*other, **environment)
        assert status == 2, output
        assert says[0] in " ".join(output.split())
        assert "Traceback" not in output
        assert SECRET not in output
        assert WRONG not in output


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"sasl_password": WRONG}, ("SASL authentication error", "check sasl.mechanism, sasl.username and")),
        ({"sasl_password": WRONG, "sasl_mechanism": "PLAIN"}, ("SASL authentication error", "check sasl.mechanism")),
        ({"sasl_mechanism": "SCRAM-SHA-256"}, ("supported mechanisms: PLAIN,SCRAM-SHA-512", "check sasl.mechanism")),
        ({"ssl_ca_location": "STRANGER"}, ("certificate verify failed", "check ssl.ca.location")),
        ({"ssl_ca_location": "/nowhere.pem"}, ("ssl.ca.location", "/nowhere.pem")),
    ],
    ids=["password", "password, PLAIN", "mechanism", "authority", "file"],
)
def test_a_broker_that_refuses_ends_the_start_with_what_is_wrong(
    secure_kafka: KafkaServer, sqlite_url: str, trust: Trust, changed: dict[str, Any], says: tuple[str, str]
) -> None:
    if changed.get("ssl_ca_location") == "STRANGER":
        changed = {"ssl_ca_location": str(trust.stranger)}
    environment = {
        "KAFKASAGA_DATABASE_URL": sqlite_url,
        "KAFKASAGA_BOOTSTRAP_SERVERS": secure_kafka.secure_servers,
        "KAFKASAGA_KAFKA": json.dumps(kafka_settings(trust, **changed)),
    }
    assert command("db", "upgrade", "--prefix", "stock_", **environment)[0] == 0
    message = start_error(environment)
    assert all(part in message for part in says), message
    status, output = command("topics", "create", "shop:stock", **environment)
    assert status == 2, output
    assert says[0] in " ".join(output.split())
    assert "Traceback" not in output
    assert WRONG not in output


def test_a_database_that_refuses_later_is_waited_for(secure_postgres: PostgresServer, trust: Trust) -> None:
    """A password that is changed while a service runs does not end it: the work is kept."""
    from kafkasaga import Outbox
    from kafkasaga.errors import DatabaseRefused, DatabaseUnavailable

    url = database_url(secure_postgres, trust, url=secure_postgres.url(), password=WRONG)
    store = create_store(url, Outbox().tables)
    with pytest.raises(DatabaseRefused) as refused:
        store.check_schema()
    assert isinstance(refused.value, DatabaseUnavailable), "what the loops wait for"
    assert WRONG not in repr(refused.value)
    store.close()
