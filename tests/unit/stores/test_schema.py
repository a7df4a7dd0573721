"""The tables on the user's metadata."""

import pytest
from sqlalchemy import Column, Integer, MetaData, Table
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateIndex

from kafkasaga.errors import DefinitionError
from kafkasaga.saga.instance import SagaStatus
from kafkasaga.stores import Tables


def test_asking_twice_gives_the_same_tables() -> None:
    metadata = MetaData()
    assert Tables(metadata).all == Tables(metadata).all
    assert Tables(metadata, prefix="x_").outbox.name == "x_outbox"
    assert Tables(metadata, "app").outbox.schema == "app"
    assert len(metadata.tables) == 3 * len(Tables(metadata).all)


def test_the_schema_of_the_metadata_is_the_default() -> None:
    metadata = MetaData(schema="app")
    assert Tables(metadata).all == Tables(metadata, "app").all


def test_a_users_table_of_the_same_name_is_refused_with_the_remedy() -> None:
    metadata = MetaData()
    Table("saga", metadata, Column("id", Integer))
    with pytest.raises(DefinitionError, match=r"'saga' of its own; .* prefix="):
        Tables(metadata)
    assert Tables(metadata, prefix="k_").saga.name == "k_saga"


def test_active_sagas_are_those_that_have_not_ended() -> None:
    (index,) = [index for index in Tables(MetaData()).saga.indexes if index.name == "saga_active"]
    text = str(CreateIndex(index).compile(dialect=postgresql.dialect()))  # type: ignore[no-untyped-call]
    assert all((f"'{status}'" in text) is not status.ended for status in SagaStatus)


def test_what_changes_with_every_message_is_not_indexed() -> None:
    """PostgreSQL then updates the row in place (HOT)."""
    indexed = {column.name for index in Tables(MetaData()).saga.indexes for column in index.columns}
    once = {"ended_at", "logged_since"}  # its last change: then the status changes too, and the row moves anyway
    assert indexed == {"name", "key", "incarnation", "status", "started_at"} | once
