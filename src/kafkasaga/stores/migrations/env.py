"""What Alembic runs around the revisions: on the connection and for the tables that ``upgrade`` was given."""

from __future__ import annotations

from alembic import context

from kafkasaga.stores.migrations import version_options

_given = context.config.attributes
context.configure(
    connection=_given["connection"],
    target_metadata=_given["tables"].metadata,
    **version_options(_given["tables"]),
)
context.run_migrations()
