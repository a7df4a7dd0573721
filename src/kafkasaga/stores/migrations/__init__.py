"""Creating the library's tables and keeping them up to date: Alembic migrations that the package ships.

They have a version table of their own (``<prefix>kafkasaga_version``, in the tables' schema) and so live beside the
user's own migrations without a common history. Two processes that upgrade at once wait for each other.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import ColumnClause, Connection, Engine, column, inspect, select, table, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.schema import CreateSchema

from kafkasaga.errors import ConfigurationError, SchemaError
from kafkasaga.stores.dialects import begin_writing
from kafkasaga.stores.engine import sqlite_file
from kafkasaga.stores.failures import translated
from kafkasaga.stores.remedies import upgrade_command
from kafkasaga.stores.schema import Tables

if TYPE_CHECKING:
    from alembic.config import Config

_LOCK: Final = 0x6B61666B61736167
"""The number of the advisory lock under which an upgrade runs: "kafkasag"."""
OLDEST_POSTGRESQL: Final = 14
"""Relays that froze are known by their ``idle_session_timeout``, which older servers do not have."""


def upgrade(engine: Engine, tables: Tables) -> None:
    """Create the tables, or bring them up to date; also the schema, on PostgreSQL, if there is none. All or nothing.

    Raises:
        ConfigurationError: if the server is too old.
        SchemaError: if tables of these names are there that no migration made.
    """
    from alembic import command

    with translated(), engine.connect() as connection, connection.begin():
        _refuse_old_server(connection)
        begin_writing(connection)
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
            if tables.schema is not None and not inspect(connection).has_schema(tables.schema):
                connection.execute(CreateSchema(tables.schema))
        if foreign := _foreign(connection, tables):
            raise SchemaError(foreign)
        config = _config()
        config.attributes.update(connection=connection, tables=tables)
        command.upgrade(config, "head")


def check(engine: Engine, tables: Tables) -> None:
    """Make sure that the tables are those of this version.

    Raises:
        ConfigurationError: if the server is too old.
        SchemaError: if they are missing, old, or newer than this version; it names the remedy.
    """
    file = sqlite_file(engine.url)
    if file is not None and not file.exists():  # to look into it would make it
        raise SchemaError(f"there is no database {file}; make it: {upgrade_command(engine, tables)}")
    if _is_current(engine, tables):
        return
    with translated(), engine.connect() as connection:
        problem = _problem(connection, tables)
    if problem is not None:
        raise SchemaError(problem)


def version_options(tables: Tables) -> dict[str, Any]:
    """Where Alembic notes the version of ``tables``."""
    return {"version_table": tables.version_table, "version_table_schema": tables.schema}


def _is_current(engine: Engine, tables: Tables) -> bool:
    """Whether everything is as it should be; without Alembic, whose import takes a tenth of a service's start."""
    number: ColumnClause[str] = column("version_num")
    version = select(number).select_from(table(tables.version_table, schema=tables.schema))
    with translated(), engine.connect() as connection:
        _refuse_old_server(connection)
        try:
            found = connection.scalars(version).all()
        except DBAPIError as error:
            if error.connection_invalidated:
                raise
            return False  # what is wrong, the long way tells
        there = set(inspect(connection).get_table_names(schema=tables.schema))
    return list(found) == [head()] and there.issuperset(each.name for each in tables.all)


def head() -> str:
    """The revision of the newest migration: its file's name begins with it."""
    return max(file.name for file in Path(__file__).with_name("versions").glob("[0-9]*.py")).partition("_")[0]


def _refuse_old_server(connection: Connection) -> None:
    dialect = connection.dialect
    if dialect.name != "postgresql":
        return
    version: tuple[int, ...] | None = getattr(dialect, "server_version_info", None)
    if version is not None and version < (OLDEST_POSTGRESQL,):
        raise ConfigurationError(
            f"kafkasaga needs PostgreSQL {OLDEST_POSTGRESQL} or newer, and the server of database "
            f"{connection.engine.url.database!r} is {'.'.join(map(str, version))}; upgrade the server"
        )


def _problem(connection: Connection, tables: Tables) -> str | None:
    from alembic.script import ScriptDirectory

    where = _where(connection, tables)
    scripts = ScriptDirectory.from_config(_config())
    current = _revision(connection, tables)
    if current is None:
        if foreign := _foreign(connection, tables):
            return foreign
        return f"{where} does not have kafkasaga's tables; create them: {upgrade_command(connection.engine, tables)}"
    if current not in {script.revision for script in scripts.walk_revisions()}:
        return (
            f"{where}: kafkasaga's tables are at version {current!r}, which is newer than this kafkasaga; "
            "upgrade the kafkasaga package"
        )
    if current != scripts.get_current_head():
        remedy = upgrade_command(connection.engine, tables)
        return f"{where}: kafkasaga's tables are at the old version {current!r}; run: {remedy}"
    there = inspect(connection).get_table_names(schema=tables.schema)
    missing = [table.name for table in tables.all if table.name not in there]
    if missing:
        return f"{where} lacks {', '.join(missing)}, which kafkasaga once created; restore them from a backup"
    return None


def _foreign(connection: Connection, tables: Tables) -> str | None:
    """What is wrong where tables of our names lie that no migration made."""
    if _revision(connection, tables) is not None:
        return None
    there = set(inspect(connection).get_table_names(schema=tables.schema))
    found = [table.name for table in tables.all if table.name in there]
    if not found:
        return None
    return (
        f"{_where(connection, tables)} has {', '.join(found)}, but not from kafkasaga's migrations. If "
        "MetaData.create_all made them, drop them and have it make your own tables only; if they are yours, give "
        "kafkasaga's a schema= or prefix="
    )


def _revision(connection: Connection, tables: Tables) -> str | None:
    from alembic.runtime.migration import MigrationContext

    return MigrationContext.configure(connection, opts=version_options(tables)).get_current_revision()


def _where(connection: Connection, tables: Tables) -> str:
    return f"database {connection.engine.url.database!r}" + (f", schema {tables.schema!r}" if tables.schema else "")


def _config() -> Config:
    from alembic.config import Config

    config = Config()
    # Alembic interpolates "%" in its options.
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    return config
