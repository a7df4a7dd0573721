"""Database URLs that cannot work, and what is missing behind those that can: one message with the remedy."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import MetaData, create_engine
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.orm import Session

from kafkasaga import ConfigurationError, DefinitionError, KafkasagaError, Message, Outbox
from kafkasaga.errors import SchemaError
from kafkasaga.stores import create_store


class Told(Message, topic="told", key="id"):
    id: str


def refused(url: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        create_store(url, Outbox(MetaData()))
    return str(caught.value)


def test_a_file_with_two_slashes_is_told_of_the_third() -> None:
    assert "a file has three slashes: sqlite:///seats.sqlite" in refused("sqlite://seats.sqlite")


def test_a_file_in_a_folder_that_is_not_there_names_both() -> None:
    said = refused("sqlite:////nope/x.sqlite")
    assert "no folder /nope" in said
    assert "/nope/x.sqlite" in said


def test_a_folder_is_no_database(tmp_path: Path) -> None:
    assert "is a folder; name a file in it" in refused(f"sqlite:///{tmp_path}")


def test_postgresql_without_its_driver_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def without(name: str, *arguments: Any, **more: Any) -> Any:
        if name.partition(".")[0] == "psycopg":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return original(name, *arguments, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    assert 'PostgreSQL needs psycopg: pip install "kafkasaga[postgresql]"' in refused("postgresql://u@localhost/x")


def test_looking_for_tables_does_not_make_a_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "none.sqlite"
    url = f"sqlite:///{file}"
    monkeypatch.delenv("KAFKASAGA_DATABASE_URL", raising=False)
    store = create_store(url, Outbox(MetaData()))
    with pytest.raises(SchemaError, match="there is no database") as caught:
        store.check_schema()
    assert str(caught.value).endswith(f"kafkasaga db upgrade --database-url {url}")
    assert not file.exists()
    monkeypatch.setenv("KAFKASAGA_DATABASE_URL", url)
    with pytest.raises(SchemaError, match=r"kafkasaga db upgrade$"):
        store.check_schema()
    store.close()


def test_the_remedy_does_not_tell_the_password() -> None:
    from kafkasaga.stores.remedies import upgrade_command

    outbox = Outbox(MetaData(), schema="shop", prefix="k_")
    engine = create_engine("postgresql+psycopg://ann:secret@host/x?sslmode=require&sslpassword=secret")
    assert upgrade_command(engine, outbox.tables) == (
        "kafkasaga db upgrade --schema shop --prefix k_ --database-url postgresql+psycopg://ann@host/x?sslmode=require"
    )


def test_publishing_without_tables_keeps_the_error_and_adds_the_remedy(database_url: str) -> None:
    outbox = Outbox(MetaData(), prefix="never_made_")
    engine = create_engine(database_url)
    with Session(engine) as session:
        outbox.publish(session, Told(id="1"))
        with pytest.raises(DBAPIError, match="never_made_outbox") as caught:
            session.flush()
    engine.dispose()
    (note,) = caught.value.__notes__
    assert "kafkasaga's tables are missing; create them: kafkasaga db upgrade --prefix never_made_" in note


def test_other_missing_tables_are_not_ours() -> None:
    engine = create_engine("sqlite://")
    with engine.connect() as connection, pytest.raises(OperationalError) as caught:
        connection.exec_driver_sql("SELECT * FROM somebodys")
    assert not getattr(caught.value, "__notes__", [])


@pytest.mark.parametrize("given", [create_engine("sqlite://"), None, "session"])
def test_publishing_needs_a_session(given: Any) -> None:
    with pytest.raises(DefinitionError, match="is neither: with Session"):
        Outbox(MetaData()).publish(given, Told(id="1"))


def test_what_is_published_is_a_message() -> None:
    outbox: Any = Outbox(MetaData())
    with (
        Session(create_engine("sqlite://")) as session,
        pytest.raises(DefinitionError, match="a dict is not a Message"),
    ):
        outbox.publish(session, {"id": "1"})


def test_what_is_published_has_a_key() -> None:
    outbox = Outbox(MetaData())
    with Session(create_engine("sqlite://")) as session, pytest.raises(KafkasagaError, match="id='', which is its key"):
        outbox.publish(session, Told(id=""))
