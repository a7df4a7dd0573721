"""A participant as small as one can be: a command, one row, one reply; one by one, and in bulk."""

from sqlalchemy import text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from kafkasaga import Message, Service


class Book(Message, topic="bench.book", key="account"):
    order: int
    account: str
    number: int
    """Counts the commands of its account."""
    amount: int
    note: str


class Booked(Message, topic="bench.booked", key="account"):
    order: int
    account: str
    number: int


class Base(DeclarativeBase): ...


class Entry(Base):
    __tablename__ = "ledger"

    order: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    account: Mapped[str]
    amount: Mapped[int]


service = Service("ledger")


@service.handler
def book(command: Book, session: Session) -> Booked:
    session.add(Entry(order=command.order, account=command.account, amount=command.amount))
    return Booked(order=command.order, account=command.account, number=command.number)


bulk = Service("ledger")
BOOK = text("""
    INSERT INTO ledger ("order", account, amount)
    SELECT * FROM unnest(CAST(:orders AS bigint[]), CAST(:accounts AS text[]), CAST(:amounts AS bigint[]))
""")


@bulk.batch_handler
def book_all(commands: list[Book], session: Session) -> list[Booked]:
    rows = {
        "orders": [c.order for c in commands],
        "accounts": [c.account for c in commands],
        "amounts": [c.amount for c in commands],
    }
    session.execute(BOOK, rows)
    return [Booked(order=c.order, account=c.account, number=c.number) for c in commands]
