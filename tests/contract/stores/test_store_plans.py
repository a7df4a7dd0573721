"""Plans that PostgreSQL keeps: good ones, however much a table has grown since; and none of a user's is another one."""

from uuid import uuid4

import pytest
from sqlalchemy import Connection, create_engine, event, text

from kafkasaga.messages import Operation
from kafkasaga.ports import BarrierEntry, BarrierKey, InboxKey, Outcome, SagaChange, TopicPartition, Turn
from kafkasaga.stores import SqlStore
from tests.contract.stores.store_kit import until
from tests.contract.stores.test_store_sagas import minutes, new, next_change, save

SETTINGS = ("plan_cache_mode", "enable_seqscan", "enable_mergejoin", "enable_nestloop", "jit")
MANY = 5000


def handle(store: SqlStore, change: SagaChange) -> SagaChange:
    """A batch, as the runtime has it: a reply, its saga, a command's answer. The timer comes and goes."""
    saga, step = change.instance.id, BarrierKey(uuid4(), "pay", 0, Operation.ACTION)
    after = next_change(change, due=minutes(5) if change.instance.seq % 2 else None, woken=True)
    with store.begin() as uow:
        uow.look_ahead({step}, {saga}, Turn.BESIDE)
        key = InboxKey("billing", "shop", uuid4())
        assert uow.claim_inbox([key]) == {key}
        assert uow.read_barrier([step]) == {}
        assert set(uow.load_sagas([saga])) == {saga}
        uow.settle_barrier({step: BarrierEntry(Outcome.DONE)})
        uow.save_sagas([after])
        uow.advance("shop", {TopicPartition("orders", 0): change.instance.seq})
    return after


def fill(connection: Connection, table: str, **columns: str) -> None:
    """Make many rows of what is there, with new values in ``columns``."""
    values = ", ".join(f"'{name}', {value}" for name, value in columns.items())
    copies = f"{table} t, generate_series(1, {MANY}) n, jsonb_populate_record(t, jsonb_build_object({values})) copy"
    connection.execute(text(f"INSERT INTO {table} SELECT copy.* FROM {copies} LIMIT {MANY}"))  # noqa: S608


def rows_read(connection: Connection) -> dict[str, int]:
    """Rows and entries of indexes that anybody has read, by table."""
    found = connection.execute(
        text("""SELECT t.relname, t.seq_tup_read + sum(i.idx_tup_read)
        FROM pg_stat_user_tables t JOIN pg_stat_user_indexes i USING (relid) GROUP BY t.relname, t.seq_tup_read""")
    )
    return {table: int(read) for table, read in found}


def test_a_plan_from_when_a_table_was_empty_reads_it_by_index_when_it_is_full(postgres_store: SqlStore) -> None:
    other = create_engine(postgres_store.engine.url)
    change = new("1", due=minutes(1))
    save(postgres_store, change)
    with other.begin() as connection:
        connection.execute(text("ANALYZE"))
    for _ in range(8):
        change = handle(postgres_store, change)
    with other.begin() as connection:
        fill(connection, "inbox", message_id="md5(concat(t, n))::uuid")
        fill(connection, "barrier", saga_id="md5(concat(t, n))::uuid")
        fill(connection, "saga", saga_id="md5(concat(t, n))::uuid", key="n::text")
        connection.execute(text("INSERT INTO saga_timer SELECT saga_id, now() FROM saga WHERE seq > 1 OFFSET 1"))
    for _ in range(8):
        change = handle(postgres_store, change)
    seq = change.instance.seq
    postgres_store.engine.dispose()  # what a connection has counted is known at its end
    with other.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        ask = text("SELECT n_tup_ins FROM pg_stat_user_tables WHERE relname = 'saga_log'")
        until(lambda: connection.scalar(ask) == seq)
        read = rows_read(connection)
    other.dispose()
    assert {table: rows for table, rows in read.items() if rows >= MANY} == {}


def test_a_users_statements_are_planned_as_if_nothing_had_been_said(postgres_store: SqlStore) -> None:
    def prefer(connection: object, _: object) -> None:
        connection.execute("SET enable_mergejoin = off")  # type: ignore[attr-defined]
        connection.commit()  # type: ignore[attr-defined]

    def settings() -> list[str]:
        return [uow.session.scalar(text(f"SHOW {name}")) or "" for name in SETTINGS]

    event.listen(postgres_store.engine, "connect", prefer)
    postgres_store.engine.dispose()
    change = new("1")
    save(postgres_store, change)
    with postgres_store.begin() as uow:
        before = settings()
    with postgres_store.begin() as uow:
        uow.look_ahead(set(), {change.instance.id})
        uow.claim_inbox([InboxKey("billing", "shop", uuid4())])
        behind_the_claim = settings()
        uow.load_sagas([change.instance.id])
        uow.save_sagas([next_change(change)])
        behind_what_was_kept_for_the_end = settings()
    with postgres_store.begin() as uow:
        afterwards = settings()
    assert before == afterwards == ["force_custom_plan", "on", "off", "on", "on"]
    assert behind_the_claim == behind_what_was_kept_for_the_end == ["auto", *before[1:]]


@pytest.mark.parametrize("keeps", [True, False], ids=["plans kept", "a pooler that takes no prepared statements"])
def test_statements_are_prepared_where_that_is_wanted(postgres_store: SqlStore, *, keeps: bool) -> None:
    def without(connection: object, _: object) -> None:
        connection.prepare_threshold = None  # type: ignore[attr-defined]

    if not keeps:
        event.listen(postgres_store.engine, "connect", without)
        postgres_store.engine.dispose()
    change = new("1")
    save(postgres_store, change)
    for _ in range(3):
        change = handle(postgres_store, change)
    with postgres_store.begin() as uow:
        asked = "SELECT statement FROM pg_prepared_statements WHERE statement LIKE '%saga%'"
        prepared = uow.session.scalars(text(asked)).all()
    assert any("UPDATE" in statement for statement in prepared) == keeps
    assert any("FOR UPDATE" in statement for statement in prepared) == keeps
