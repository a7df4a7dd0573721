"""What a saga remembers: a pydantic model of the user's, carried as JSON between transitions."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from kafkasaga.messages.model import CheckedModel


class SagaState(BaseModel, metaclass=CheckedModel):
    """The data of one saga instance. Methods that record a reply run on a copy; the saga log keeps the result.

    ::

        class OrderState(SagaState):  # filled from the starting message by field name, checked at import
            order_id: UUID
            reservation_id: UUID | None = None

            def reserved(self, reply: InventoryReserved) -> None:
                self.reservation_id = reply.reservation_id

    Where the names differ, give it ``begin``, a class method that takes the starting message and returns the state.
    """

    model_config = ConfigDict(
        validate_assignment=True, extra="forbid", ser_json_bytes="base64", val_json_bytes="base64"
    )
