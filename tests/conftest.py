"""Fixtures of all tests: databases and brokers, each started at most once a run and only when a test needs it."""

import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import hypothesis
import pytest

from kafkasaga.testing import EmbeddedKafka
from tests.support import KafkaServer, PostgresServer, UnavailableError, tiers
from tests.support.tiers import Tier

Server = TypeVar("Server", PostgresServer, KafkaServer)

# What a script starts in its background ignores Ctrl-C, and so would all that the tests start; some of them press it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Seconds say nothing on a machine that also runs brokers and databases; a hanging example meets pytest's time limit.
hypothesis.settings.register_profile("kafkasaga", deadline=None)
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=2_000)
hypothesis.settings.load_profile("kafkasaga")


def started(tier: Tier, server: type[Server], **options: Any) -> Iterator[Server]:
    """A server of a tier, for as long as a fixture lives."""
    if reason := server.missing():
        tiers.leave_out(tier, reason)
    running = server(**options)
    try:
        running.start()
        yield running
    except UnavailableError as error:
        tiers.leave_out(tier, str(error))
    finally:
        running.close()


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """The PostgreSQL server of this run. Do not stop it: `private_postgres` is for that."""
    yield from started(Tier.POSTGRESQL, PostgresServer)


@pytest.fixture
def private_postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server for one test, to be killed and frozen as it likes."""
    yield from started(Tier.POSTGRESQL, PostgresServer)


@pytest.fixture(scope="session")
def kafka() -> Iterator[KafkaServer]:
    """The Apache Kafka of this run. Topics live as long as it does, so use names of your own. Do not stop it."""
    yield from started(Tier.KAFKA, KafkaServer)


@pytest.fixture
def private_kafka() -> Iterator[KafkaServer]:
    """An Apache Kafka for one test, to be killed and frozen as it likes."""
    yield from started(Tier.KAFKA, KafkaServer)


@pytest.fixture
def embedded_kafka() -> Iterator[EmbeddedKafka]:
    """The embedded broker for one test, without topics."""
    with EmbeddedKafka() as broker:
        yield broker


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """The URL of an empty SQLite database in a file."""
    return f"sqlite:///{tmp_path / 'test.sqlite'}"


@pytest.fixture
def postgres_url(postgres: PostgresServer) -> Iterator[str]:
    """The URL of an empty PostgreSQL database."""
    url = postgres.create_database()
    yield url
    postgres.drop_database(url)


@pytest.fixture(
    params=[
        pytest.param("sqlite_url", id="sqlite", marks=pytest.mark.sqlite),
        pytest.param("postgres_url", id="postgresql", marks=pytest.mark.postgresql),
    ]
)
def database_url(request: pytest.FixtureRequest) -> str:
    """The URL of an empty database: once on SQLite, once on PostgreSQL."""
    url: str = request.getfixturevalue(request.param)
    return url


@pytest.fixture(
    params=[
        pytest.param("embedded_kafka", id="embedded", marks=pytest.mark.embedded),
        pytest.param("kafka", id="kafka", marks=pytest.mark.kafka),
    ]
)
def broker(request: pytest.FixtureRequest) -> EmbeddedKafka | KafkaServer:
    """A broker, with `bootstrap_servers` and `create_topics(names)`: once embedded, once Apache Kafka."""
    running: EmbeddedKafka | KafkaServer = request.getfixturevalue(request.param)
    return running


@pytest.fixture
def bootstrap_servers(broker: EmbeddedKafka | KafkaServer) -> str:
    """The address of `broker`."""
    return broker.bootstrap_servers


def pytest_configure() -> None:
    tiers.required()  # a misspelt tier is an error before the first test


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    tiers.mark(items)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = {
        report.nodeid: report
        for outcome in ("passed", "failed", "error", "skipped", "xfailed")
        for report in terminalreporter.getreports(outcome)
    }
    # The report of a module that could not be imported has no keywords.
    keywords = [getattr(report, "keywords", {}) for report in reports.values()]
    counts = Counter(tier for known in keywords for tier in Tier if tier.value in known)
    if counts:
        terminalreporter.section("tiers")
        skipped = [report.longrepr[2] for report in terminalreporter.getreports("skipped")]  # (file, line, reason)
        for line in tiers.summary(counts, skipped):
            terminalreporter.line(line)
