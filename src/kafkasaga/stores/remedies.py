"""What to do about missing tables: the command that makes them, also where the user's own transaction meets that."""

from __future__ import annotations

import os
from typing import Final

from sqlalchemy import URL, Engine, event, make_url
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import ArgumentError

from kafkasaga.stores.failures import says_missing_table
from kafkasaga.stores.schema import Tables

_KNOWN: Final[dict[str, Tables]] = {}
"""Tables of this process, by the name of their outbox."""


def upgrade_command(engine: Engine, tables: Tables) -> str:
    """The command that makes the tables, or brings them up to date."""
    schema = f" --schema {tables.schema}" if tables.schema else ""
    prefix = f" --prefix {tables.prefix}" if tables.prefix else ""
    return f"kafkasaga db upgrade{schema}{prefix}{_url_option(engine.url)}"


def _url_option(url: URL) -> str:
    """What the command needs that the environment does not say; never the password."""
    known = os.environ.get("KAFKASAGA_DATABASE_URL", "")
    if known and _shown(known) == _shown(url):
        return ""
    return f" --database-url {_shown(url)}"


def _shown(url: str | URL) -> str:
    try:
        parsed = make_url(url)
    except ArgumentError:
        return ""
    query = {name: value for name, value in parsed.query.items() if "password" not in name}
    # Not `set`, to which None means: as it is.
    shown = URL.create(parsed.drivername, parsed.username, None, parsed.host, parsed.port, parsed.database, query)
    return shown.render_as_string()


def remember(tables: Tables) -> None:
    """Tables that users write to in transactions of their own."""
    _KNOWN[tables.outbox.fullname] = tables


@event.listens_for(Engine, "handle_error")
def _say_what_to_do(context: ExceptionContext) -> None:
    """Add the remedy to SQLAlchemy's error, which stays as it is."""
    if context.engine is None or not says_missing_table(context.original_exception):
        return
    said, error = str(context.original_exception), context.sqlalchemy_exception
    # With a prefix, a name may have another one in it.
    name = max((name for name in _KNOWN if name in said), key=len, default=None)
    if name is not None and error is not None:
        error.add_note(f"kafkasaga's tables are missing; create them: {upgrade_command(context.engine, _KNOWN[name])}")
