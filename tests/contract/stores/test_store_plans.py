"""Plans that PostgreSQL keeps: good ones, however much a table has grown since; and none of a user's is another one."""

from collections.abc import Callable, Sequence
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Connection, Row, create_engine, event, text

from kafkasaga.messages import Operation
from kafkasaga.ports import BarrierEntry, BarrierKey, InboxKey, Outcome, SagaChange, TopicPartition, Turn
from kafkasaga.stores import SqlStore
from tests.contract.stores.store_kit import until
from tests.contract.stores.test_store_sagas import minutes, new, next_change, save

SETTINGS = ("plan_cache_mode", "enable_seqscan", "enable_mergejoin", "enable_nestloop", "jit")
PLACE = TopicPartition("orders", 0)
MANY = 5000


HANDED_OVER = pytest.mark.parametrize("hands_over", [True, False], ids=["with handlers", "sagas only"])


def handle(store: SqlStore, change: SagaChange, *, hands_over: bool = True) -> SagaChange:
    """A batch, as the runtime has it: a reply, its saga, a command's answer. The timer comes and goes."""
    saga, step = change.instance.id, BarrierKey(uuid4(), "pay", 0, Operation.ACTION)
    after = next_change(change, due=minutes(5) if change.instance.seq % 2 else None, woken=True)
    with store.begin() as uow:
        uow.look_ahead({step}, {saga}, Turn.BESIDE, hands_over=hands_over)
        key = InboxKey("billing", "shop", uuid4())
        assert uow.claim_inbox([key]) == {key}
        assert uow.read_barrier([step]) == {}
        assert set(uow.load_sagas([saga])) == {saga}
        assert uow.current_sagas([(change.instance.saga, "1")]) == {(change.instance.saga, "1"): saga}
        uow.settle_barrier({step: BarrierEntry(Outcome.DONE)})
        uow.save_sagas([after])
        uow.advance("shop", {PLACE: change.instance.seq})
    return after


def noted_by_a_trigger(store: SqlStore, when: str, *, at_the_end: bool = False) -> Callable[[], Sequence[str]]:
    """A user's trigger that notes whether tables may be scanned where it runs; gives what it has noted."""
    kind, deferred = ("CONSTRAINT TRIGGER", "DEFERRABLE INITIALLY DEFERRED") if at_the_end else ("TRIGGER", "")
    with store.engine.begin() as connection:
        connection.execute(text("CREATE TABLE seen (scans text)"))
        connection.execute(
            text("""CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN INSERT INTO seen SELECT current_setting('enable_seqscan'); RETURN NULL; END $$""")
        )
        connection.execute(text(f"CREATE {kind} look {when} {deferred} FOR EACH ROW EXECUTE FUNCTION look()"))

    def noted() -> Sequence[str]:
        with store.engine.connect() as connection:
            return connection.execute(text("SELECT scans FROM seen")).scalars().all()

    return noted


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


@HANDED_OVER
def test_a_plan_from_when_a_table_was_empty_reads_it_by_index_when_it_is_full(
    postgres_store: SqlStore, *, hands_over: bool
) -> None:
    other = create_engine(postgres_store.engine.url)
    change = new("1", due=minutes(1))
    save(postgres_store, change)
    with other.begin() as connection:
        connection.execute(text("ANALYZE"))
    for _ in range(8):
        change = handle(postgres_store, change, hands_over=hands_over)
    with other.begin() as connection:
        fill(connection, "inbox", message_id="md5(concat(t, n))::uuid")
        fill(connection, "barrier", saga_id="md5(concat(t, n))::uuid")
        fill(connection, "saga", saga_id="md5(concat(t, n))::uuid", key="n::text")
        connection.execute(text("INSERT INTO saga_timer SELECT saga_id, now() FROM saga WHERE seq > 1 OFFSET 1"))
    for _ in range(8):
        change = handle(postgres_store, change, hands_over=hands_over)
    seq = change.instance.seq
    postgres_store.close()  # what a connection has counted is known at its end
    with other.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        ask = text("SELECT n_tup_ins FROM pg_stat_user_tables WHERE relname = 'saga_log'")
        until(lambda: connection.scalar(ask) == seq)
        read = rows_read(connection)
    other.dispose()
    assert {table: rows for table, rows in read.items() if rows >= MANY} == {}


@HANDED_OVER
def test_a_users_statements_are_planned_as_if_nothing_had_been_said(
    postgres_store: SqlStore, *, hands_over: bool
) -> None:
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
        uow.look_ahead(set(), {change.instance.id}, hands_over=hands_over)
        uow.claim_inbox([InboxKey("billing", "shop", uuid4())])
        behind_the_claim = settings()
        uow.load_sagas([change.instance.id])
        uow.save_sagas([next_change(change)])
        behind_what_was_kept_for_the_end = settings()
    with postgres_store.begin() as uow:
        afterwards = settings()
    assert before == afterwards == ["force_custom_plan", "on", "off", "on", "on"]
    assert behind_the_claim == behind_what_was_kept_for_the_end == ["auto", *before[1:]]


def test_so_are_our_own_that_are_not_written_for_it(postgres_store: SqlStore) -> None:
    seen = noted_by_a_trigger(postgres_store, "AFTER INSERT ON consumer_offset")
    with postgres_store.begin() as uow:
        uow.look_ahead(set(), hands_over=False)
        uow.claim_inbox([InboxKey("billing", "shop", uuid4())])
        uow.note_batch("shop", {PLACE: 7})
    assert seen() == ["on"]


def test_so_is_whatever_follows_a_second_claim_or_nothing_but_one(postgres_store: SqlStore) -> None:
    with postgres_store.begin() as uow:
        for _ in range(2):
            uow.look_ahead(set(), hands_over=False)
            uow.claim_inbox([InboxKey("billing", "shop", uuid4())])
        assert uow.session.scalar(text("SHOW enable_seqscan")) == "on"
    seen = noted_by_a_trigger(postgres_store, "AFTER INSERT ON inbox", at_the_end=True)
    with postgres_store.begin() as uow:
        uow.look_ahead(set(), hands_over=False)
        uow.claim_inbox([InboxKey("billing", "shop", uuid4())])
    assert seen() == ["on"]


@HANDED_OVER
def test_a_users_triggers_at_the_end_are_planned_so_too(postgres_store: SqlStore, *, hands_over: bool) -> None:
    seen = noted_by_a_trigger(postgres_store, "AFTER UPDATE ON saga", at_the_end=True)
    change = new("1")
    save(postgres_store, change)
    handle(postgres_store, change, hands_over=hands_over)
    assert seen() == ["on"]


@pytest.mark.parametrize("keeps", [True, False], ids=["plans kept", "a pooler that takes no prepared statements"])
def test_statements_are_prepared_where_that_is_wanted(postgres_store: SqlStore, *, keeps: bool) -> None:
    def without(connection: object, _: object) -> None:
        connection.prepare_threshold = None  # type: ignore[attr-defined]

    if not keeps:
        event.listen(postgres_store.engine, "connect", without)
        postgres_store.engine.dispose()
    analyse(postgres_store)
    plans = plans_behind(postgres_store)
    update, load = (one_of(plans, begin) for begin in ("UPDATE saga AS t", "SELECT t.saga_id, t.snapshot"))
    assert len(update) == len(load) == keeps
    for plan in [*update, *load]:
        assert (plan.generic_plans, plan.custom_plans) == (3, 0), plan.statement
        with postgres_store.begin() as uow:
            uow.session.execute(text("SET LOCAL plan_cache_mode = force_generic_plan"))
            arrays = ", ".join(["'{}'"] * plan.statement.count("CAST($"))
            lines = uow.session.scalars(text(f"EXPLAIN EXECUTE {plan.name}({arrays})")).all()
        assert "Nested Loop" not in "\n".join(lines), "of a batch with itself"


def test_behind_a_batch_nothing_is_prepared_that_reads_tables_without_their_plans_being_seen_to(
    postgres_store: SqlStore,
) -> None:
    plans_behind(postgres_store)
    before = prepared(postgres_store)
    assert postgres_store.positions("shop", [PLACE])
    assert prepared(postgres_store) == before
    with pytest.raises(UnicodeEncodeError), postgres_store.begin() as uow:  # noqa: PT012
        uow.look_ahead(set())
        uow.claim_inbox([InboxKey("billing", "\ud800", uuid4())])  # ends between what is kept and what is not
    assert postgres_store.positions("shop", [PLACE])
    assert prepared(postgres_store) <= before


def prepared(store: SqlStore) -> set[str]:
    with store.begin() as uow:
        return set(uow.session.scalars(text("SELECT statement FROM pg_prepared_statements")).all())


def analyse(store: SqlStore) -> None:
    with store.engine.begin() as connection:
        connection.execute(text("ANALYZE"))


def plans_behind(store: SqlStore) -> Sequence[Row[Any]]:
    """What is prepared when some batches have passed: names, statements, and how often plans of each kind were used."""
    change = new("1")
    save(store, change)
    for _ in range(3):
        change = handle(store, change)
    with store.begin() as uow:
        asked = "SELECT name, statement, generic_plans, custom_plans FROM pg_prepared_statements"
        return uow.session.execute(text(asked)).all()


def one_of(plans: Sequence[Row[Any]], begin: str) -> list[Row[Any]]:
    return [plan for plan in plans if begin in plan.statement]
