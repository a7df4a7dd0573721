"""The Payment service: it charges cards, and gives the money back."""

from decimal import Decimal
from uuid import UUID

from sqlalchemy import ForeignKey, Numeric
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from kafkasaga import Service

from .contracts import PaymentFailed, PaymentRefunded, PaymentSucceeded, ProcessPayment, RefundPayment

payment = Service("payment")


class Base(DeclarativeBase): ...


class Card(Base):
    __tablename__ = "card"

    customer_id: Mapped[str] = mapped_column(primary_key=True)
    limit: Mapped[Decimal] = mapped_column(Numeric(12, 2))
    """The most that one payment may be."""


class Charge(Base):
    __tablename__ = "charge"

    order_id: Mapped[UUID] = mapped_column(primary_key=True)
    customer_id: Mapped[str]
    amount: Mapped[Decimal] = mapped_column(Numeric(12, 2))


class Refund(Base):
    __tablename__ = "refund"

    order_id: Mapped[UUID] = mapped_column(ForeignKey(Charge.order_id), primary_key=True)
    amount: Mapped[Decimal] = mapped_column(Numeric(12, 2))


@payment.handler
def pay(command: ProcessPayment, session: Session) -> PaymentSucceeded | PaymentFailed:
    card = session.get(Card, command.customer_id)
    if card is None:
        return PaymentFailed(order_id=command.order_id, reason="no card on file")
    if command.amount > card.limit:
        return PaymentFailed(order_id=command.order_id, reason="card declined")
    session.add(Charge(order_id=command.order_id, customer_id=command.customer_id, amount=command.amount))
    return PaymentSucceeded(order_id=command.order_id)


@payment.handler
def refund(command: RefundPayment, session: Session) -> PaymentRefunded:
    """Undo a charge. The library calls this only for an order that *was* charged; others it answers by itself."""
    charge = session.get_one(Charge, command.order_id)
    session.add(Refund(order_id=charge.order_id, amount=charge.amount))
    return PaymentRefunded(order_id=command.order_id)
