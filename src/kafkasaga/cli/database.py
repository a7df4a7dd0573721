"""``kafkasaga db``."""

from __future__ import annotations

import typer

from kafkasaga.cli.options import DatabaseUrl, OptionalTarget, Prefix, Schema, load_outbox, load_settings
from kafkasaga.errors import ConfigurationError
from kafkasaga.stores import create_store
from kafkasaga.stores.migrations import upgrade as upgrade_schema

app = typer.Typer(help="The library's tables.", no_args_is_help=True)


@app.callback()
def _db() -> None:
    """The library's tables."""


@app.command()
def upgrade(
    target: OptionalTarget = None, database_url: DatabaseUrl = None, schema: Schema = None, prefix: Prefix = ""
) -> None:
    """Create the library's tables, or bring them up to this version."""
    url = load_settings(database_url).database_url.get_secret_value()
    if not url:
        raise ConfigurationError("no database: set KAFKASAGA_DATABASE_URL, or give --database-url")
    store = create_store(url, load_outbox(target, schema, prefix).tables)
    try:
        upgrade_schema(store.engine, store.tables)
    finally:
        store.close()
    typer.echo("The tables are up to date.")
