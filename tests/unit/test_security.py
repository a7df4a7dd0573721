"""No code comes from the wire, no data becomes SQL, no secret is shown."""

from __future__ import annotations

import ast
import logging
import re
import traceback
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
import structlog
from sqlalchemy import MetaData, event
from sqlalchemy.orm import Session

from kafkasaga import Outbox, Service, Settings
from kafkasaga.errors import ConfigurationError, KafkasagaError
from kafkasaga.kafka.config import KafkaConfig
from kafkasaga.kafka.link import Link
from kafkasaga.messages import Operation
from kafkasaga.runtime.operator import Operator
from kafkasaga.stores import create_store
from kafkasaga.testing.broker import MemoryBroker
from tests.unit.runtime.kit import Begun, Buy, Ledger, Node, Release, Released, Reserve, VirtualClock, context, send

SOURCES = sorted((Path(__file__).parents[2] / "src" / "kafkasaga").glob("[a-z]*/**/*.py")) + sorted(
    (Path(__file__).parents[2] / "src" / "kafkasaga").glob("*.py")
)
SECRET = "canary-4711-word"  # noqa: S105 (looked for where it must not be)

RUNS_DATA = {"pickle", "_pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "jsonpickle", "yaml"}
"""Modules that make objects, and so run code, of what they read."""
RUNS_TEXT = {"eval", "exec", "compile", "__import__", "import_module", "locate", "import_string"}
"""Functions that run, or import, what a text says."""
IMPORTS_BY_NAME = {
    "__init__.py": "our own modules, from a table of the public names",
    "cli/options.py": "the service that an operator names on the command line",
    "testing/simulator/__main__.py": "the saga that a developer names on the command line",
    "testing/simulator/fibers.py": "greenlet, if it is there",
}

SQL_CALLS = {"text", "exec_driver_sql", "execute", "scalar", "scalars", "literal_column", "DDL"}
COMPOSED_SQL = {
    "stores/bulk.py": "names of our columns and types, and marks for parameters",
    "stores/parked.py": "the values of our own enumeration",
    "stores/wake.py": "a hash as the name of a channel",
    "stores/relay_postgresql.py": "our own constants, and a hash as the name of a channel",
    "testing/simulator/contents.py": "names of tables, in a test's database",
}
"""Where a statement is put together, and of what."""


def trees() -> Iterator[tuple[str, ast.Module]]:
    assert len(SOURCES) > 100
    for path in SOURCES:
        name = path.as_posix().partition("src/kafkasaga/")[2]
        if not name.startswith("examples/"):
            yield name, ast.parse(path.read_text("utf-8"))


def calls(tree: ast.Module) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            function = node.func
            name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
            if not (isinstance(function, ast.Attribute) and getattr(function.value, "id", "") == "re"):
                yield name, node


def imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").partition(".")[0]


def test_nothing_makes_objects_of_what_it_reads() -> None:
    found = {(name, module) for name, tree in trees() for module in imported(tree) if module in RUNS_DATA}
    assert found == set()


def test_nothing_imports_or_runs_what_a_text_says_but_what_the_operator_said() -> None:
    found = {name for name, tree in trees() for called, call in calls(tree) if called in RUNS_TEXT and not _typed(call)}
    assert found == set(IMPORTS_BY_NAME)


def _typed(call: ast.Call) -> bool:
    """A method of SQLAlchemy's types is called `compile`, too; it takes a dialect."""
    return isinstance(call.func, ast.Attribute) and getattr(call.func.value, "id", "") == "type"


def test_statements_are_constants_but_where_it_is_said_of_what_they_are_made() -> None:
    found = {name for name, tree in trees() for called, call in calls(tree) if called in SQL_CALLS and _composed(call)}
    assert found <= set(COMPOSED_SQL), "a statement is put together; use parameters, or say of what it is made"


def _composed(call: ast.Call) -> bool:
    first = call.args[0] if call.args else None
    if isinstance(first, ast.Call) and isinstance(first.func, ast.Attribute):
        return first.func.attr in ("format", "format_map", "join")
    return isinstance(first, ast.JoinedStr | ast.BinOp)


def test_every_statement_that_the_linter_was_told_to_let_pass_says_why() -> None:
    silenced = [line for path in SOURCES for line in path.read_text("utf-8").splitlines() if "noqa: S608" in line]
    assert silenced
    assert [line for line in silenced if not re.search(r"noqa: S608 \(.+\)", line)] == []


def test_no_data_ever_becomes_part_of_a_statement() -> None:
    """A service's life with the same text as every key, id, type, source, error and reason there is."""
    evil = "'; DROP TABLE canary; --"
    ledger = Ledger()
    service = Service("svc", sagas=[Buy], outbox=ledger.outbox)

    @service.handler
    def reserve(command: Reserve) -> None:
        raise ValueError(evil)

    @service.handler
    def release(command: Release) -> Released:
        return Released(id=evil)

    broker = MemoryBroker()
    node = Node(service, broker, VirtualClock())
    statements: list[str] = []
    event.listen(node.store.engine, "before_cursor_execute", lambda *a: statements.append(a[2]))
    with Session(node.store.engine) as session, session.begin():
        ledger.outbox.publish(session, Begun(id=evil), Reserve(id=evil))
    broker.reject = lambda topic, key, value: None
    node.publish()
    saga = context(uuid4(), Operation.COMPENSATION, step=evil)
    send(broker, Release(id=evil), saga=saga, source=evil)
    broker.append("reserve", evil.encode(), b"{", {"ce_type": evil.encode(), "ce_id": evil.encode()})
    for _ in range(3):
        node.consume()
        node.publish()
        node.clock.sleep(600)
        node.timekeeper.step()
    operator = Operator(node.store)
    for parked in node.parked():
        operator.act(parked.id, "discard", by=evil, why=evil)
    node.store.queries().sagas(key=evil)
    assert len(statements) > 50
    assert any("parked_message" in statement for statement in statements)
    assert [statement for statement in statements if "canary" in statement] == []


URLS = [
    f"postgresql+psycopg://user:{SECRET}@127.0.0.1:1/x",
    f"postgresql+psycopg://user@127.0.0.1:1/x?password={SECRET}",
    f"postgresql://user:{SECRET}@[broken/x",
    f"mysql://user:{SECRET}@127.0.0.1/x",
    f"user:{SECRET}@nothing",
]


@pytest.mark.parametrize("url", URLS)
def test_no_error_about_a_database_shows_its_password(url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    settings = Settings.load(database_url=url, bootstrap_servers="b:1", kafka={"sasl.password": SECRET})
    assert SECRET not in repr(settings) + str(settings) + repr(settings.model_dump()["database_url"])
    with pytest.raises(KafkasagaError) as raised:
        create_store(settings.database_url.get_secret_value(), Outbox(MetaData()).tables).check_schema()
    told = "".join(traceback.format_exception(raised.value))
    assert SECRET not in told
    assert SECRET not in caplog.text


def test_no_error_of_a_setting_shows_what_was_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKASAGA_KAFKA", f'{{"sasl.password": "{SECRET}"')
    monkeypatch.setenv("KAFKASAGA_BATCH_SIZE", SECRET)
    with pytest.raises(ConfigurationError) as raised:
        Settings.load()
    assert SECRET not in "".join(traceback.format_exception(raised.value))


@pytest.mark.parametrize("name", ["sasl.password", "ssl.key.password", "ssl.key.pem", "sasl.oauthbearer.config"])
def test_whatever_librdkafka_says_is_masked(name: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    settings = Settings.load(bootstrap_servers="127.0.0.1:1", kafka={name: SECRET})
    config = KafkaConfig.of(settings)
    link = Link(config, "test")
    link.trouble(f"it says {SECRET}")
    assert "it says ***" in caplog.text
    assert SECRET not in caplog.text + repr(config) + str(config.shown())


def test_what_a_statement_carried_is_neither_logged_nor_kept_with_an_error() -> None:
    """The values of a statement are business data; the error says which statement it was, and what was wrong."""
    ledger = Ledger()
    service = Service("svc", outbox=ledger.outbox)

    @service.handler
    def reserve(command: Reserve, session: Session) -> None:
        session.execute(ledger.entries.insert().values(id=None, once=SECRET))

    broker = MemoryBroker()
    node = Node(service, broker, VirtualClock())
    send(broker, Reserve(id="x"))
    with structlog.testing.capture_logs() as logged:
        node.consume()
        node.clock.sleep(600)
        while node.batches.retry_parked():
            pass
    (parked,) = node.parked()
    assert "NOT NULL constraint failed: entries.id" in parked.error
    assert "INSERT INTO entries" in parked.error
    assert any("NOT NULL" in str(entry) for entry in logged)
    assert SECRET not in parked.error + str(logged)
