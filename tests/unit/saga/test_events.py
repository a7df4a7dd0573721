from __future__ import annotations

from dataclasses import fields
from datetime import UTC, datetime
from uuid import UUID

import pytest

from kafkasaga.errors import CorruptLog
from kafkasaga.saga.events import EVENTS, CommandSent, StepBegan, StepSkipped, from_body, step_of, to_body

SENT = CommandSent(
    step="pay",
    generation=1,
    attempt=2,
    command_id=UUID(int=7),
    message="pay",
    deadline=datetime(2030, 1, 1, tzinfo=UTC),
)


def test_the_body_leaves_out_what_the_log_has_columns_for() -> None:
    body = to_body(SENT)
    assert '"step"' not in body
    assert '"kind"' not in body
    assert from_body("command-sent", "pay", body) == SENT


def test_a_row_that_an_earlier_version_wrote_is_read() -> None:
    body = (
        '{"generation":1,"attempt":2,"command_id":"00000000-0000-0000-0000-000000000007","message":"pay",'
        '"deadline":"2030-01-01T00:00:00+00:00"}'
    )
    assert from_body("command-sent", "pay", body) == SENT
    skipped = StepSkipped(step="pay", by="\xfc \U0001f600 \ud800", why='"')
    assert from_body("step-skipped", "pay", r'{"by":"\u00fc \ud83d\ude00 \ud800","why":"\""}') == skipped


def test_none_is_left_out_and_comes_back() -> None:
    event = StepBegan(step="book", deadline=None, early=None)
    assert to_body(event) == "{}"
    assert from_body("step-began", "book", "{}") == event


def test_kinds_are_unique_and_spelt_alike() -> None:
    assert len(EVENTS) == 20
    for kind, event in EVENTS.items():
        assert event.kind == kind
        assert kind.replace("-", "").isalpha()
        assert kind.islower()


def test_every_event_says_which_step_it_is_about() -> None:
    assert step_of(SENT) == "pay"
    about = {kind for kind, event in EVENTS.items() if "step" in {field.name for field in fields(event)}}
    others = {"started", "branch-taken", "fanned-out", "came-early", "ignored", "completed", "cancelled"}
    assert about == EVENTS.keys() - others


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("teleported", "{}"),
        ("command-sent", "{"),
        ("command-sent", "[]"),
        ("command-sent", "{}"),
        ("command-sent", to_body(SENT).replace("2030", "soon")),
        ("command-sent", to_body(SENT).replace('"attempt":2', '"attempt":"2"')),
        ("step-began", '{"colour":"red"}'),
    ],
)
def test_what_cannot_be_read_is_a_corrupt_log(kind: str, body: str) -> None:
    with pytest.raises(CorruptLog, match=kind):
        from_body(kind, "pay", body)


def test_an_event_about_a_step_needs_one() -> None:
    with pytest.raises(CorruptLog, match="step"):
        from_body("command-sent", None, to_body(SENT))
