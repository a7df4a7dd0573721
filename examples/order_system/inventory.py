"""The Inventory service: every unit of a product is available, reserved or sold."""

from collections.abc import Sequence
from decimal import Decimal
from enum import StrEnum
from uuid import UUID

from sqlalchemy import CheckConstraint, Numeric, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from kafkasaga import Service

from .contracts import (
    InventoryFailed,
    InventoryReleased,
    InventoryReserved,
    InventoryUnavailable,
    InventoryValidated,
    OrderCompleted,
    ReleaseInventory,
    ReserveInventory,
    ValidateInventory,
)

inventory = Service("inventory")


class Base(DeclarativeBase): ...


class Stock(Base):
    __tablename__ = "stock"
    __table_args__ = (CheckConstraint("available >= 0 and reserved >= 0 and sold >= 0"),)

    sku: Mapped[str] = mapped_column(primary_key=True)
    price: Mapped[Decimal] = mapped_column(Numeric(12, 2))
    available: Mapped[int]
    reserved: Mapped[int] = mapped_column(default=0)
    sold: Mapped[int] = mapped_column(default=0)


class Held(StrEnum):
    RESERVED = "reserved"
    RELEASED = "released"
    SOLD = "sold"


class Reservation(Base):
    __tablename__ = "reservation"

    order_id: Mapped[UUID] = mapped_column(primary_key=True)
    sku: Mapped[str] = mapped_column(primary_key=True)
    quantity: Mapped[int]
    status: Mapped[Held] = mapped_column(default=Held.RESERVED)


@inventory.handler
def validate(command: ValidateInventory, session: Session) -> InventoryValidated | InventoryUnavailable:
    """Is all of it sold here and in stock, and for how much? How many there are, only a reservation can settle."""
    skus = [line.sku for line in command.lines]
    found = select(Stock.sku, Stock.price).where(Stock.sku.in_(skus), Stock.available > 0)
    prices = {row.sku: row.price for row in session.execute(found)}
    if missing := sorted(set(skus) - prices.keys()):
        return InventoryUnavailable(order_id=command.order_id, reason=f"not available: {', '.join(missing)}")
    total = sum((prices[line.sku] * line.quantity for line in command.lines), Decimal())
    return InventoryValidated(order_id=command.order_id, total=total)


@inventory.handler
def reserve(command: ReserveInventory, session: Session) -> InventoryReserved | InventoryFailed:
    """All of the order or nothing."""
    stock = lock_stock(session, [line.sku for line in command.lines])
    short = [line.sku for line in command.lines if line.sku not in stock or stock[line.sku].available < line.quantity]
    if short:
        return InventoryFailed(order_id=command.order_id, reason=f"out of stock: {', '.join(sorted(short))}")
    for line in command.lines:
        stock[line.sku].available -= line.quantity
        stock[line.sku].reserved += line.quantity
        session.add(Reservation(order_id=command.order_id, sku=line.sku, quantity=line.quantity))
    return InventoryReserved(order_id=command.order_id)


@inventory.handler
def release(command: ReleaseInventory, session: Session) -> InventoryReleased:
    """Put it back on the shelf. The library calls this only for an order that *was* reserved."""
    for stock, reservation in reserved(session, command.order_id):
        stock.reserved -= reservation.quantity
        stock.available += reservation.quantity
        reservation.status = Held.RELEASED
    return InventoryReleased(order_id=command.order_id)


@inventory.handler
def sell(event: OrderCompleted, session: Session) -> None:
    for stock, reservation in reserved(session, event.order_id):
        stock.reserved -= reservation.quantity
        stock.sold += reservation.quantity
        reservation.status = Held.SOLD


def lock_stock(session: Session, skus: Sequence[str]) -> dict[str, Stock]:
    """Products, locked in the order of their sku: two orders that want the same ones cannot deadlock."""
    rows = select(Stock).where(Stock.sku.in_(skus)).order_by(Stock.sku).with_for_update()
    return {stock.sku: stock for stock in session.scalars(rows, execution_options={"populate_existing": True})}


def reserved(session: Session, order_id: UUID) -> list[tuple[Stock, Reservation]]:
    """What the order holds, and the products concerned, locked."""
    held = select(Reservation).where(Reservation.order_id == order_id, Reservation.status == Held.RESERVED)
    reservations = session.scalars(held).all()
    stock = lock_stock(session, [reservation.sku for reservation in reservations])
    return [(stock[reservation.sku], reservation) for reservation in reservations]
