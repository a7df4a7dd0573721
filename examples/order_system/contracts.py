"""What the five services say to each other. They share these messages and nothing else."""

from decimal import Decimal
from typing import Annotated
from uuid import UUID

from pydantic import AfterValidator, BaseModel, Field

from kafkasaga import Message


class Line(BaseModel, frozen=True, extra="forbid"):
    sku: str = Field(min_length=1, max_length=40)
    quantity: int = Field(ge=1, le=1000, strict=True)


def each_product_once(lines: tuple[Line, ...]) -> tuple[Line, ...]:
    if len({line.sku for line in lines}) < len(lines):
        raise ValueError("each product may appear in one line only")
    return lines


Lines = Annotated[tuple[Line, ...], Field(min_length=1, max_length=50), AfterValidator(each_product_once)]


class OrderMessage(Message, key="order_id"):
    """Every message is about one order, and an order's messages keep their order."""

    order_id: UUID


class Refusal(OrderMessage):
    reason: str


# ---- asking before an order is created ----


class ValidateCustomer(OrderMessage, topic="customer.validate.request"):
    customer_id: str


class CustomerValidated(OrderMessage, topic="customer.validated"): ...


class CustomerRejected(Refusal, topic="customer.rejected"): ...


class ValidateInventory(OrderMessage, topic="inventory.validate.request"):
    lines: Lines


class InventoryValidated(OrderMessage, topic="inventory.validated"):
    total: Decimal


class InventoryUnavailable(Refusal, topic="inventory.unavailable"): ...


# ---- the life of an order ----


class OrderRejected(Refusal, topic="order.rejected"): ...


class OrderCreated(OrderMessage, topic="order.created"):
    customer_id: str
    lines: Lines
    total: Decimal


class OrderCompleted(OrderMessage, topic="order.completed"): ...


class OrderCancelled(Refusal, topic="order.cancelled"): ...


# ---- reserving, and undoing it ----


class ReserveInventory(OrderMessage, topic="inventory.reserve.request"):
    lines: Lines


class InventoryReserved(OrderMessage, topic="inventory.reserved"): ...


class InventoryFailed(Refusal, topic="inventory.failed"): ...


class ReleaseInventory(OrderMessage, topic="inventory.release"): ...


class InventoryReleased(OrderMessage, topic="inventory.released"): ...


# ---- paying, and undoing it ----


class ProcessPayment(OrderMessage, topic="payment.process"):
    customer_id: str
    amount: Decimal


class PaymentSucceeded(OrderMessage, topic="payment.succeeded"): ...


class PaymentFailed(Refusal, topic="payment.failed"): ...


class RefundPayment(OrderMessage, topic="payment.refund"): ...


class PaymentRefunded(OrderMessage, topic="payment.refunded"): ...
