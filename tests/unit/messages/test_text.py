from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

import pytest

from kafkasaga.messages import from_text, to_text, writer_of
from kafkasaga.values import value


def test_ids_and_times_are_written_in_their_usual_spelling() -> None:
    east = datetime(2030, 1, 1, 12, 0, 0, 5, tzinfo=timezone(timedelta(hours=2)))
    text = to_text({"id": UUID(int=7), "at": [datetime(2030, 1, 1, tzinfo=UTC), east]})
    assert text == (
        '{"id":"00000000-0000-0000-0000-000000000007","at":["2030-01-01T00:00:00Z","2030-01-01T12:00:00.000005+02:00"]}'
    )
    assert datetime.fromisoformat(from_text(text)["at"][1]) == east


def test_text_that_utf8_cannot_hold_is_kept() -> None:
    odd = {"why": "half \ud800, \udc80", "at": datetime(2030, 1, 1, tzinfo=UTC), "id": UUID(int=7)}
    text = to_text(odd)
    assert text.isascii()
    assert from_text(text) == {"why": odd["why"], "at": "2030-01-01T00:00:00+00:00", "id": str(odd["id"])}


@pytest.mark.parametrize("value", ['\0\x1f"\\/\u2028ü\U0001f600', 2**80, True, None, [], {}])
def test_what_the_standard_library_wrote_reads_alike(value: object) -> None:
    assert from_text(json.dumps(value)) == value == from_text(to_text(value))


@pytest.mark.parametrize("text", ["", "{", '{"a":1}x', "'a'"])
def test_what_is_not_json_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match="line 1"):
        from_text(text)


def test_what_json_has_no_word_for_is_refused() -> None:
    with pytest.raises(TypeError, match="object object"):
        to_text({"a": object()})


@value(frozen=True, slots=True)
class _Noted:
    left_out: str
    why: str | None
    at: datetime
    id: UUID | None
    many: tuple[str, ...]


@pytest.mark.parametrize("why", [None, 'ü\n"', "half \ud800"])
def test_fields_are_written_as_an_object_of_them_is(why: str | None) -> None:
    noted = _Noted("x", why, datetime(2030, 1, 1, 1, 2, 3, tzinfo=UTC), UUID(int=7), ("a", "b"))
    fields = {"why": noted.why, "at": noted.at, "id": noted.id, "many": noted.many}
    expected = {name: given for name, given in fields.items() if given is not None}
    assert writer_of(_Noted, list(fields))(noted) == to_text(expected)
