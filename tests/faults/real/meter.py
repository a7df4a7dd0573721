"""A sixth service, beside the order system, whose keys have many messages: each meter sends numbered readings.

An order has one message of each kind, so its keys can show a loss or a double, but hardly a wrong order. A meter's
readings are written 1, 2, 3, …, and have to be published, handled and answered in that order.
"""

from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from kafkasaga import Message, Service

meter = Service("meter")


class Base(DeclarativeBase): ...


class Asked(Base):
    """A reading that was sent: committed with its message, so that whoever does not know can look."""

    __tablename__ = "asked"

    meter: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)


class Taken(Base):
    """A reading that was handled. Nothing here refuses a second one: the inbox has to."""

    __tablename__ = "taken"

    id: Mapped[int] = mapped_column(primary_key=True)
    meter: Mapped[str]
    number: Mapped[int]


class Reading(Message, topic="meter.reading", key="meter"):
    meter: str
    number: int


class ReadingTaken(Message, topic="meter.taken", key="meter"):
    meter: str
    number: int


@meter.handler
def take(reading: Reading, session: Session) -> ReadingTaken:
    session.add(Taken(meter=reading.meter, number=reading.number))
    return ReadingTaken(meter=reading.meter, number=reading.number)
