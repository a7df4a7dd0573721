"""``Outbox`` and ``@idempotent`` in the user's own transactions (invariants I1, I2, I3)."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Engine, create_engine, make_url
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from kafkasaga import DefinitionError, Outbox, Received, idempotent
from kafkasaga.errors import SerializationConflict
from kafkasaga.messages import write_headers
from kafkasaga.ports import OutboxRow
from kafkasaga.stores import CONTEXT, PublishContext, SqlStore, enlist
from tests.contract.stores.business import Base, Order, OrderCreated, OrderMessage, created, orders
from tests.contract.stores.store_kit import Threads, counted_statements
from tests.contract.stores.test_store_relay_queue import LONG, envelope
from tests.contract.stores.test_store_sagas import new

outbox = Outbox(Base.metadata, source="shop")


@pytest.fixture
def engine(store: SqlStore) -> Iterator[Engine]:
    """The user's own engine, as plain as can be."""
    engine = create_engine(store.engine.url)
    Base.metadata.tables["orders"].create(engine)
    yield engine
    engine.dispose()


def rows(store: SqlStore) -> list[OutboxRow]:
    """What the relay would publish."""
    queue = store.relay_queue()
    assert queue.acquire()
    found = queue.fetch(0, 1000)
    queue.close()
    return found


def numbers(store: SqlStore) -> list[int]:
    return [OrderCreated.model_validate_json(row.payload or b"").number for row in rows(store)]


class TestPublish:
    def test_a_message_is_published_with_the_users_transaction(self, store: SqlStore, engine: Engine) -> None:
        message = created(7)
        with Session(engine) as session, session.begin():
            session.add(Order(id=1))
            outbox.publish(session, message)
        (row,) = rows(store)
        assert (row.topic, row.key) == ("order.created", str(message.order_id))
        assert OrderCreated.model_validate_json(row.payload or b"") == message
        assert row.headers["ce_source"] == "shop"
        assert row.headers["ce_id"] == str(row.message_id)
        assert orders(engine) == [1]

    def test_a07_a_rollback_leaves_no_ghost_message(self, store: SqlStore, engine: Engine) -> None:
        with Session(engine) as session:
            session.add(Order(id=1))
            outbox.publish(session, created())
            session.flush()
            session.rollback()
            session.commit()
        assert rows(store) == []
        assert orders(engine) == []

    def test_messages_keep_the_order_of_publishing(self, store: SqlStore, engine: Engine) -> None:
        with Session(engine) as session, session.begin():
            outbox.publish(session, *[created(n) for n in range(300)])
            outbox.publish(session, created(300))
            session.flush()
            outbox.publish(session, created(301))
        assert numbers(store) == list(range(302))

    def test_a_savepoint_that_is_rolled_back_drops_its_messages(self, store: SqlStore, engine: Engine) -> None:
        with Session(engine) as session, session.begin():
            outbox.publish(session, created(1))
            with pytest.raises(ZeroDivisionError), session.begin_nested():  # noqa: PT012
                outbox.publish(session, created(2))
                session.flush()
                raise ZeroDivisionError
            outbox.publish(session, created(3))
        assert numbers(store) == [1, 3]

    def test_an_async_session_publishes_with_the_same_plain_call(self, store: SqlStore, engine: Engine) -> None:
        async def shop() -> None:
            url = make_url(str(store.engine.url.render_as_string(hide_password=False)))
            if url.get_backend_name() == "sqlite":
                url = url.set(drivername="sqlite+aiosqlite")
            asynchronous = create_async_engine(url)
            async with AsyncSession(asynchronous) as session, session.begin():
                session.add(Order(id=1))
                outbox.publish(session, created(1), created(2))
            async with AsyncSession(asynchronous) as session:
                outbox.publish(session, created(3))
                await session.rollback()
            await asynchronous.dispose()

        asyncio.run(shop())
        assert numbers(store) == [1, 2]
        assert orders(engine) == [1]

    def test_the_relay_is_woken_after_the_outermost_commit(
        self, store: SqlStore, engine: Engine, threads: Threads
    ) -> None:
        queue = store.relay_queue()
        assert queue.acquire()
        with Session(engine) as session, session.begin():
            with session.begin_nested():
                outbox.publish(session, created())
            queue.wait(0.01)
            waiting = threads.start(lambda: queue.wait(LONG))
            assert not waiting.done()
        waiting.result(timeout=20)
        queue.close()

    def test_a_context_gives_source_ids_time_and_trace(self, store: SqlStore, engine: Engine) -> None:
        ids = [uuid4(), uuid4()]
        given: Iterator[UUID] = iter(ids)
        trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        now = datetime(2026, 1, 2, tzinfo=UTC)
        with Session(engine) as session, session.begin():
            session.info[CONTEXT] = PublishContext("payment", lambda: next(given), trace, now)
            outbox.publish(session, created(), created())
        found = rows(store)
        assert [row.message_id for row in found] == ids
        assert {(row.headers["ce_source"], row.headers["traceparent"], row.headers["ce_time"]) for row in found} == {
            ("payment", trace, now.isoformat())
        }

    def test_an_abstract_message_is_refused_and_none_is_published(self, store: SqlStore, engine: Engine) -> None:
        with Session(engine) as session, session.begin():
            with pytest.raises(DefinitionError, match="no topic"):
                outbox.publish(session, created(), OrderMessage(order_id=uuid4()))
            assert not session.new

    def test_outboxes_on_one_metadata_share_their_tables(self) -> None:
        again = Outbox(Base.metadata, source="other")
        assert again.tables.outbox is outbox.tables.outbox
        assert Outbox(Base.metadata, prefix="x_").tables.outbox is not outbox.tables.outbox


class TestEnlist:
    def test_a_unit_of_work_commits_with_the_session(self, store: SqlStore, engine: Engine, threads: Threads) -> None:
        queue = store.relay_queue()
        assert queue.acquire()
        waiting = threads.start(lambda: queue.wait(LONG))
        sent = envelope()
        with Session(engine) as session, session.begin():
            uow = enlist(session, outbox)
            assert uow.session is session
            session.add(Order(id=1))
            uow.flush()
            uow.add_outbox([sent])
        waiting.result(timeout=20)
        (row,) = queue.fetch(0, 10)
        queue.close()
        assert row.headers == write_headers(sent)

    def test_a_unit_of_work_rolls_back_with_the_session(self, store: SqlStore, engine: Engine) -> None:
        with Session(engine) as session:
            store.enlist(session).add_outbox([envelope()])
            session.rollback()
        assert rows(store) == []

    def test_a_saga_that_was_begun_already_leaves_the_users_transaction_whole(
        self, store: SqlStore, engine: Engine
    ) -> None:
        begun = new("1")
        with store.begin() as uow:
            uow.save_sagas([begun])
        with Session(engine) as session, session.begin():
            with pytest.raises(SerializationConflict):
                store.enlist(session).save_sagas([begun])
            session.add(Order(id=1))
        with Session(engine) as session:
            assert session.get(Order, 1) is not None

    def test_an_async_session_is_refused_with_the_remedy(self, store: SqlStore) -> None:
        with pytest.raises(DefinitionError, match="run_sync"):
            store.enlist(AsyncSession())


@idempotent(consumer="billing")
def on_created(event: OrderCreated, session: Session) -> None:
    """Take the order."""
    session.add(Order(id=event.number))
    session.flush()
    if event.number < 0:
        raise ValueError(event.number)


class TestIdempotent:
    def test_a_message_is_handled_once(self, store: SqlStore, engine: Engine) -> None:
        received = Received(created(1), uuid4(), "shop")
        outcomes = []
        for _ in range(2):
            with Session(engine) as session, session.begin():
                outcomes.append(on_created(received, session))
        assert outcomes == ["handled", "repeated"]
        assert orders(engine) == [1]

    def test_within_one_transaction_too(self, store: SqlStore, engine: Engine) -> None:
        received = Received(created(1), uuid4())
        with Session(engine) as session, session.begin():
            assert [on_created(received, session), on_created(received, session)] == ["handled", "repeated"]

    def test_what_was_rolled_back_was_not_handled(self, store: SqlStore, engine: Engine) -> None:
        received = Received(created(1), uuid4())
        with Session(engine) as session:
            assert on_created(received, session) == "handled"
            session.rollback()
        assert orders(engine) == []
        with Session(engine) as session, session.begin():
            assert on_created(received, session) == "handled"

    def test_a_handler_that_raises_has_not_handled_even_if_the_caller_commits(
        self, store: SqlStore, engine: Engine
    ) -> None:
        received = Received(created(-1), uuid4())
        for _ in range(2):
            with Session(engine) as session, session.begin():
                session.add(Order(id=5))
                session.flush()
                with pytest.raises(ValueError, match="-1"):
                    on_created(received, session)
                session.delete(session.get_one(Order, 5))
        assert orders(engine) == []

    def test_a05_concurrent_duplicates_run_once(self, store: SqlStore, engine: Engine, threads: Threads) -> None:
        received = Received(created(1), uuid4())

        def handle() -> str:
            with Session(engine) as session, session.begin():
                return on_created(received, session)

        with Session(engine) as session, session.begin():
            assert on_created(received, session) == "handled"
            other = threads.start_and_block(handle)
        assert other.result() == "repeated"

    def test_the_original_stays_within_reach(self) -> None:
        assert on_created.__wrapped__.__name__ == "on_created"
        assert on_created.__doc__ == "Take the order."

    def test_it_takes_three_statements(self, store: SqlStore, engine: Engine) -> None:
        @idempotent(consumer="nothing", outbox=outbox)
        def nothing(event: OrderCreated, session: Session) -> None: ...

        with Session(store.engine) as session, session.begin(), counted_statements(store) as statements:
            nothing(Received(created(), uuid4()), session)
        assert len([s for s in statements if "SAVEPOINT" not in s]) == 1
