"""The library's tables, on the user's own ``MetaData``; what they are made of says ``columns``.

They are created by the migrations that the package ships (``kafkasaga db upgrade``); a test holds the two together. The
tables share a database with the user's business tables, because that is what makes effects and messages commit together
(invariant I1).
"""

from __future__ import annotations

from typing import Any, Final, Literal

from sqlalchemy import MetaData, Table

from kafkasaga.stores.columns import INFO, TableBuilder, TableSet


class Tables:
    """The library's tables, in ``schema`` and with ``prefix`` before their names.

    Asking again for the same ``metadata``, ``schema`` and ``prefix`` gives the same tables.

    Args:
        metadata: the user's own, so that one ``MetaData`` describes the database.
        schema: a PostgreSQL schema; by default that of ``metadata``, or the connection's.
        prefix: put before every table's name, where ``outbox`` or ``saga`` would clash.

    Raises:
        DefinitionError: if ``metadata`` already has a table of one of these names that is not ours.
    """

    def __init__(self, metadata: MetaData, schema: str | None = None, prefix: str = "") -> None:
        self.metadata: Final = metadata
        self.schema: Final = schema or metadata.schema
        self.prefix: Final = prefix
        known: dict[tuple[str | None, str], TableSet] = metadata.info.setdefault(INFO, {})
        tables = known.get((self.schema, prefix))
        if tables is None:
            tables = known[self.schema, prefix] = TableBuilder(metadata, self.schema, prefix).build()
        self.outbox: Final = tables.outbox
        self.outbox_block: Final = tables.outbox_block
        self.inbox: Final = tables.inbox
        self.barrier: Final = tables.barrier
        self.consumer_offset: Final = tables.consumer_offset
        self.saga: Final = tables.saga
        self.saga_log: Final = tables.saga_log
        self.saga_timer: Final = tables.saga_timer
        self.parked_message: Final = tables.parked_message
        self.operator_log: Final = tables.operator_log

    @property
    def all(self) -> tuple[Table, ...]:
        """Every table."""
        return (
            self.outbox,
            self.outbox_block,
            self.inbox,
            self.barrier,
            self.consumer_offset,
            self.saga,
            self.saga_log,
            self.saga_timer,
            self.parked_message,
            self.operator_log,
        )

    @property
    def version_table(self) -> str:
        """The name of the table in which the migrations note how far they came."""
        return f"{self.prefix}kafkasaga_version"


def include_object(
    obj: Any,
    name: str | None,
    type_: Literal["schema", "table", "column", "index", "unique_constraint", "foreign_key_constraint"],
    reflected: bool,  # noqa: FBT001 (Alembic's signature)
    compare_to: Any,  # noqa: ARG001
) -> bool:
    """For ``context.configure(include_object=…)`` in the user's own Alembic environment: leave our tables to us."""
    if type_ != "table":
        return True
    if reflected and name is not None and name.endswith("kafkasaga_version"):
        return False
    return not _is_ours(obj)


def _is_ours(table: Table) -> bool:
    """Whether a table is the library's; a reflected one is ours if the metadata it is compared with has it from us."""
    return bool(table.info.get(INFO))
