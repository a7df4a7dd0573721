"""What a person does to parked messages, and what is recorded of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import MetaData, select
from typer.testing import CliRunner

from kafkasaga.cli.app import app
from kafkasaga.messages import Record
from kafkasaga.ports import Parked, ParkedStatus
from kafkasaga.stores import SqlStore, Tables, create_store
from kafkasaga.stores.migrations import upgrade

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


class Desk:
    """A database and its operator."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.store: SqlStore = create_store(url, Tables(MetaData()))
        upgrade(self.store.engine, self.store.tables)

    def park(self, *statuses: ParkedStatus) -> None:
        """One lane: the first message is in front, the others wait behind it."""
        messages = [
            Parked(
                consumer="svc",
                record=Record("orders", 0, n, b"ann", b"body\xff", {"ce_id": b"1"}),
                message_id=uuid4(),
                source="shop",
                error="ValueError: no (handler shop.take)\n\nTraceback",
                status=status,
                attempts=9 if n == 0 else 0,
                next_at=NOW + timedelta(days=9) if n == 0 else None,
                parked_at=NOW,
            )
            for n, status in enumerate(statuses)
        ]
        with self.store.begin() as uow:
            uow.park(messages)

    def run(self, *arguments: str, status: int = 0) -> str:
        result = CliRunner().invoke(app, [*arguments, "--database-url", self.url])
        assert result.exit_code == status, result.output
        return result.output

    def due(self) -> list[int]:
        """The offsets that can be tried now, in the order in which they would be."""
        found: list[int] = []
        while True:
            with self.store.begin() as uow:
                head = uow.claim_parked(NOW)
                if head is None:
                    return found
                found.append(head.record.offset)
                uow.unpark(head.id)

    def recorded(self) -> list[tuple[str, str, str, str]]:
        log = self.store.tables.operator_log.c
        with self.store.engine.connect() as connection:
            return [tuple(row) for row in connection.execute(select(log.by, log.action, log.subject, log.why))]

    def before(self) -> dict[str, object]:
        with self.store.engine.connect() as connection:
            found: dict[str, object] = json.loads(
                connection.execute(select(self.store.tables.operator_log.c.before)).scalar_one()
            )
        return found


@pytest.fixture
def desk(database_url: str) -> Iterator[Desk]:
    desk = Desk(database_url)
    yield desk
    desk.store.close()


WHY = ("--why", "the article is back", "--by", "eve")


def test_i04_a_dead_message_that_is_tried_again_is_still_the_first_of_its_key(desk: Desk) -> None:
    desk.park(ParkedStatus.DEAD, ParkedStatus.WAITING)
    assert desk.due() == []
    desk.run("parked", "retry", "1", *WHY)
    assert desk.due() == [0, 1]
    assert desk.recorded() == [("eve", "retry", "parked message 1", "the article is back")]


def test_i04_trying_one_again_that_waits_behind_another_lets_it_not_overtake(desk: Desk) -> None:
    desk.park(ParkedStatus.DEAD, ParkedStatus.DEAD)
    desk.run("parked", "retry", "2", *WHY)
    assert desk.due() == []


def test_a_skipped_message_is_kept_and_its_key_goes_on(desk: Desk) -> None:
    desk.park(ParkedStatus.DEAD, ParkedStatus.WAITING)
    desk.run("parked", "skip", "1", *WHY)
    assert desk.due() == [1]
    assert [message.status for message in desk.store.queries().parked()] == [ParkedStatus.DEAD_LETTER]
    assert "skipped by eve: the article is back" in desk.run("parked", "show", "1")


def test_i10_a_discarded_message_is_not_lost(desk: Desk) -> None:
    desk.park(ParkedStatus.DEAD, ParkedStatus.WAITING)
    desk.run("parked", "discard", "1", *WHY)
    assert desk.due() == [1]
    assert desk.store.queries().parked() == []
    before = desk.before()
    assert before["value"] == {"base64": "Ym9kef8="}
    assert before["topic"] == "orders"


def test_a_message_gets_another_body_and_is_tried_again(desk: Desk, tmp_path: Path) -> None:
    desk.park(ParkedStatus.DEAD)
    body = tmp_path / "body.json"
    body.write_bytes(b'{"cents": 5}')
    desk.run("parked", "edit", "1", "--body", str(body), *WHY)
    (message,) = desk.store.queries().parked()
    assert (message.record.value, message.status, message.attempts) == (b'{"cents": 5}', ParkedStatus.WAITING, 0)
    assert desk.before()["value"] == {"base64": "Ym9kef8="}
    assert desk.due() == [0]


def test_nothing_is_done_without_a_reason(desk: Desk) -> None:
    desk.park(ParkedStatus.DEAD)
    desk.run("parked", "discard", "1", status=2)
    assert len(desk.store.queries().parked()) == 1


def test_what_is_not_there_is_said(desk: Desk) -> None:
    for command in (("show", "7"), ("discard", "7", *WHY)):
        assert "There is no parked message 7" in desk.run("parked", *command, status=1)
    assert desk.recorded() == []


def test_a_list_has_a_line_a_message(desk: Desk) -> None:
    assert "Nothing is parked" in desk.run("parked", "list")
    desk.park(ParkedStatus.DEAD, ParkedStatus.WAITING)
    first, second = desk.run("parked", "list").splitlines()[1:]
    assert "dead" in first
    assert "ValueError: no" in first
    assert "waiting" in second


def test_the_status_says_whether_a_person_is_needed(desk: Desk) -> None:
    assert "dead messages: 0" in desk.run("status")
    desk.park(ParkedStatus.WAITING)
    assert "parked messages: 1" in desk.run("status")
    desk.park(ParkedStatus.DEAD)
    assert "dead messages: 1" in desk.run("status", status=1)


def test_tables_are_not_made_in_memory() -> None:
    result = CliRunner().invoke(app, ["db", "upgrade", "--database-url", "sqlite://"])
    assert "lives in memory" in str(result.exception)
