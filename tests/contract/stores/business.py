"""A business table and messages, as a user of the library has them."""

from uuid import UUID, uuid4

from sqlalchemy import Engine, MetaData, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from kafkasaga import Message


class Base(DeclarativeBase):
    metadata = MetaData()


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)


class OrderMessage(Message, key="order_id"):
    order_id: UUID


class OrderCreated(OrderMessage, topic="order.created"):
    number: int = 0


def created(number: int = 0) -> OrderCreated:
    return OrderCreated(order_id=uuid4(), number=number)


def orders(engine: Engine) -> list[int]:
    """The orders that are committed."""
    with Session(engine) as session:
        return list(session.scalars(select(Order.id).order_by(Order.id)))
