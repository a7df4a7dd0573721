"""One database for each service, made ready: created, migrated, filled."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import URL, create_engine, inspect, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError

from kafkasaga import ConfigurationError, Service
from kafkasaga.examples.order_system.customer import customer
from kafkasaga.examples.order_system.inventory import inventory
from kafkasaga.examples.order_system.orchestrator import orchestrator
from kafkasaga.examples.order_system.order import order
from kafkasaga.examples.order_system.payment import payment
from kafkasaga.stores import SqlStore, create_store
from kafkasaga.stores.migrations import upgrade

from .seed import make_business_tables

SERVICES: tuple[Service, ...] = (order, customer, inventory, payment, orchestrator)


@dataclass(frozen=True, slots=True)
class Database:
    """A service's database, as the demo prepares and checks it."""

    service: Service
    url: str
    store: SqlStore
    new: bool
    """It was made for this run."""


@contextmanager
def databases(base: str | None, folder: Path) -> Generator[dict[str, Database]]:
    """The databases of all services, by name: SQLite files in ``folder``, or PostgreSQL ones named after ``base``."""
    ready: dict[str, Database] = {}
    try:
        for service in SERVICES:
            ready[service.name] = _prepare(service, _url(service, base, folder))
        yield ready
    finally:
        for database in ready.values():
            database.store.close()


_HOW = "--database-url: write postgresql+psycopg://user@host/name; each service gets a database name_<service>"


def _url(service: Service, base: str | None, folder: Path) -> URL:
    if base is None:
        return URL.create("sqlite", database=str(folder / f"{service.name}.sqlite"))
    try:
        parsed = make_url(base)
    except ArgumentError:
        raise ConfigurationError(_HOW) from None
    if parsed.get_backend_name() != "postgresql" or not parsed.database:
        raise ConfigurationError(_HOW)
    url = parsed.set(database=f"{parsed.database}_{service.name}")
    _create(url, parsed)
    return url


def _create(url: URL, base: URL) -> None:
    """Create a PostgreSQL database, if it is not there, by way of another one of the same server."""
    reason = ""
    for neighbour in (base, base.set(database="postgres")):
        engine = create_engine(neighbour, isolation_level="AUTOCOMMIT")
        try:
            with engine.connect() as connection:
                there = text("SELECT 1 FROM pg_database WHERE datname = :name")
                if connection.scalar(there, {"name": url.database}) is None:
                    quoted = engine.dialect.identifier_preparer.quote(str(url.database))
                    connection.execute(text(f"CREATE DATABASE {quoted} TEMPLATE template0"))
                return
        except DBAPIError as error:
            reason = str(error.orig).strip()
        finally:
            engine.dispose()
    raise ConfigurationError(f"--database-url: {reason}")


def _prepare(service: Service, url: URL) -> Database:
    store = create_store(url, service.outbox)
    new = not inspect(store.engine).has_table(store.tables.version_table)
    upgrade(store.engine, store.tables)
    make_business_tables(service.name, store.engine)
    return Database(service, url.render_as_string(hide_password=False), store, new)
