"""A store over each kind of database."""

from collections.abc import Iterator
from uuid import UUID, uuid4

import pytest
from sqlalchemy import MetaData

from kafkasaga.stores import SqlStore, Tables, create_store
from kafkasaga.stores.migrations import upgrade
from tests.contract.stores.store_kit import Threads


def migrated(url: str, tables: Tables) -> Iterator[SqlStore]:
    store = create_store(url, tables)
    upgrade(store.engine, tables)
    yield store
    store.close()


@pytest.fixture
def tables() -> Tables:
    return Tables(MetaData())


@pytest.fixture
def store(database_url: str, tables: Tables) -> Iterator[SqlStore]:
    """A store with its tables, on SQLite and on PostgreSQL."""
    yield from migrated(database_url, tables)


@pytest.fixture
def postgres_store(postgres_url: str, tables: Tables) -> Iterator[SqlStore]:
    """A store on PostgreSQL, for what only PostgreSQL can do."""
    yield from migrated(postgres_url, tables)


@pytest.fixture
def sqlite_store(sqlite_url: str, tables: Tables) -> Iterator[SqlStore]:
    """A store on SQLite, for what only SQLite has to do."""
    yield from migrated(sqlite_url, tables)


@pytest.fixture
def threads(store: SqlStore) -> Iterator[Threads]:
    threads = Threads(store)
    yield threads
    threads.close()


@pytest.fixture
def postgres_threads(postgres_store: SqlStore) -> Iterator[Threads]:
    threads = Threads(postgres_store)
    yield threads
    threads.close()


@pytest.fixture
def saga() -> UUID:
    """The id of some saga."""
    return uuid4()
