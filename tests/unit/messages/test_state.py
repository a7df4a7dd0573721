from __future__ import annotations

import pytest
from pydantic import ValidationError

from kafkasaga.messages import SagaState


class State(SagaState):
    count: int
    raw: bytes = b""


def test_assignments_are_checked() -> None:
    state = State(count=1)
    with pytest.raises(ValidationError, match="count"):
        state.count = "many"  # type: ignore[assignment]
    assert state.count == 1


def test_unknown_fields_are_refused() -> None:
    with pytest.raises(ValidationError, match="cuont"):
        State(count=1, cuont=2)  # type: ignore[call-arg]


def test_bytes_survive_json() -> None:
    state = State(count=1, raw=b"\xff\0")
    assert State.model_validate_json(state.model_dump_json()) == state
