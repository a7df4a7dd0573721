"""The migrations make exactly the tables that the code expects, wherever the user wants them."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Column, Connection, Engine, Integer, MetaData, Table, inspect, text

from kafkasaga.errors import ConfigurationError, SchemaError
from kafkasaga.stores import Tables, create_store, include_object, migrations
from kafkasaga.stores.engine import create_library_engine
from kafkasaga.stores.migrations import check, upgrade


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = create_library_engine(database_url)
    yield engine
    engine.dispose()


@pytest.fixture(params=["plain", "placed"])
def placed(request: pytest.FixtureRequest, engine: Engine) -> Tables:
    """Tables under their plain names, and with a prefix, on PostgreSQL also in a schema, both of which need quoting."""
    if request.param == "plain":
        return Tables(MetaData())
    schema = None if engine.dialect.name == "sqlite" else "Order data"
    return Tables(MetaData(), schema=schema, prefix="Saga ")


def differences(connection: Connection, tables: Tables, **options: Any) -> list[Any]:
    options = {"compare_type": True, "compare_server_default": True, "include_schemas": True, **options}
    options |= {"version_table": tables.version_table, "version_table_schema": tables.schema}
    return list(compare_metadata(MigrationContext.configure(connection, opts=options), tables.metadata))


def test_migrations_and_metadata_agree(engine: Engine, placed: Tables) -> None:
    upgrade(engine, placed)
    with engine.connect() as connection:
        assert differences(connection, placed) == []


def test_metadata_alone_makes_the_same_indexes(engine: Engine, placed: Tables) -> None:
    """Also of what Alembic does not compare: partial indexes and their kind."""
    upgrade(engine, placed)
    migrated = definitions(engine)
    placed.metadata.drop_all(engine)
    placed.metadata.create_all(engine)
    assert definitions(engine) == migrated


def definitions(engine: Engine) -> set[str]:
    query = "SELECT sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
    if engine.dialect.name == "postgresql":
        query = "SELECT indexdef FROM pg_indexes WHERE schemaname NOT LIKE 'pg_%' AND indexname NOT LIKE '%version%'"
    with engine.connect() as connection:
        return {" ".join(line.replace("'", "").split()) for line in connection.scalars(text(query))}


def test_upgrading_twice_changes_nothing(engine: Engine, placed: Tables) -> None:
    upgrade(engine, placed)
    once = definitions(engine)
    upgrade(engine, placed)
    check(engine, placed)
    assert definitions(engine) == once


def test_everything_works_where_the_tables_were_placed(database_url: str, placed: Tables) -> None:
    store = create_store(database_url, placed)
    upgrade(store.engine, placed)
    store.check_schema()
    queue = store.relay_queue()
    assert queue.acquire()
    queue.delete(queue.fetch(0, 1))
    with store.begin() as uow:
        assert uow.current_sagas([("a", "b")]) == {}
    assert store.queries().counts().outbox == 0
    queue.close()
    store.close()


def test_two_sets_of_tables_live_in_one_database(engine: Engine) -> None:
    one, two = Tables(MetaData()), Tables(MetaData(), prefix="two_")
    upgrade(engine, one)
    with pytest.raises(SchemaError):
        check(engine, two)
    upgrade(engine, two)
    check(engine, one)
    check(engine, two)


def test_processes_that_upgrade_at_once_wait_for_each_other(engine: Engine) -> None:
    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(upgrade, engine, Tables(MetaData())) for _ in range(4)]:
            future.result()
    check(engine, Tables(MetaData()))


def test_a_server_that_is_too_old_is_refused(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is made, and again at the start; which one it is, the real server says."""
    engine, tables = create_library_engine(postgres_url), Tables(MetaData())
    with monkeypatch.context() as patch:
        patch.setattr(migrations, "OLDEST_POSTGRESQL", 99)
        with pytest.raises(ConfigurationError, match=r"needs PostgreSQL 99 or newer.* is \d+\.\d+; upgrade the server"):
            upgrade(engine, tables)
        assert inspect(engine).get_table_names() == []
    upgrade(engine, tables)
    check(engine, tables)
    monkeypatch.setattr(migrations, "OLDEST_POSTGRESQL", 99)
    with pytest.raises(ConfigurationError, match="needs PostgreSQL 99"):
        check(engine, tables)
    engine.dispose()


class TestCheck:
    def test_missing_tables(self, engine: Engine) -> None:
        with pytest.raises(
            SchemaError,
            match=r"(have kafkasaga's tables|is no database).*kafkasaga db upgrade --prefix x_ --database-url",
        ):
            check(engine, Tables(MetaData(), prefix="x_"))

    def test_newer_tables(self, engine: Engine) -> None:
        tables = Tables(MetaData())
        upgrade(engine, tables)
        with engine.begin() as connection:
            connection.execute(text("UPDATE kafkasaga_version SET version_num = '9999'"))
        with pytest.raises(SchemaError, match="newer than this kafkasaga; upgrade the kafkasaga package"):
            check(engine, tables)

    def test_old_tables(self, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        tables = Tables(MetaData())
        upgrade(engine, tables)
        monkeypatch.setattr(ScriptDirectory, "get_current_head", lambda _: "0002")
        monkeypatch.setattr(migrations, "head", lambda: "0002")
        with pytest.raises(SchemaError, match=r"old version '0001'; run: kafkasaga db upgrade --database-url"):
            check(engine, tables)

    def test_a_table_that_was_dropped(self, engine: Engine) -> None:
        tables = Tables(MetaData())
        upgrade(engine, tables)
        tables.inbox.drop(engine)
        with pytest.raises(SchemaError, match="lacks inbox"):
            check(engine, tables)

    def test_a_failed_upgrade_leaves_nothing(self, engine: Engine) -> None:
        Table("parked_message", metadata := MetaData(), Column("id", Integer, primary_key=True)).create(engine)
        with pytest.raises(Exception, match="parked_message"):
            upgrade(engine, Tables(MetaData()))
        assert inspect(engine).get_table_names() == ["parked_message"]
        assert metadata.tables


def test_the_users_own_autogenerate_leaves_our_tables_alone(engine: Engine) -> None:
    metadata = MetaData()
    Table("mine", metadata, Column("id", Integer, primary_key=True))
    tables = Tables(metadata)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"include_object": include_object})
        assert [(kind, table.name) for kind, table in compare_metadata(context, metadata)] == [("add_table", "mine")]
    upgrade(engine, tables)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"include_object": include_object})
        assert [(kind, table.name) for kind, table in compare_metadata(context, metadata)] == [("add_table", "mine")]
