"""What is wrong at the start is one clear error with its remedy, and exit status 2; SIGTERM ends with 0."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import MetaData, create_engine, text

from kafkasaga import Outbox
from kafkasaga.stores import create_store
from kafkasaga.stores.migrations import upgrade
from kafkasaga.testing import EmbeddedKafka
from tests.integration.runtime_kit import Program, Shop, command, until

NOBODY = "127.0.0.1:1"
SERVERS = {"KAFKASAGA_BOOTSTRAP_SERVERS": NOBODY}


def refused(*arguments: str, **environment: str) -> str:
    """The command is refused; returns the one message, as one line."""
    status, output = command(*arguments, **environment)
    assert status == 2, output
    assert "Traceback" not in output
    return " ".join(output.split())


@pytest.fixture
def ready(sqlite_url: str) -> str:
    """A database with the tables of `stock` and `orders`."""
    for prefix in ("stock_", "orders_"):
        store = create_store(sqlite_url, Outbox(MetaData(), prefix=prefix).tables)
        upgrade(store.engine, store.tables)
        store.close()
    return sqlite_url


@pytest.mark.parametrize(
    ("arguments", "environment", "says"),
    [
        (["run", "shop:stock"], {}, "no database: set KAFKASAGA_DATABASE_URL"),
        (["run", "shop:stock"], {}, "no broker: set KAFKASAGA_BOOTSTRAP_SERVERS"),
        (["run", "shop:stock", "--database-url", "sqlite://", "--bootstrap-servers", "http://x:1"], {}, "no address"),
        (["run", "shop:stock"], {"KAFKASAGA_DATABASE_URL": "sqlite://"}, "no broker: set KAFKASAGA_BOOTSTRAP_SERVERS"),
        (["run", "shop:stock"], {"KAFKASAGA_BATCH_SIZE": "0"}, "KAFKASAGA_BATCH_SIZE is wrong"),
        (["run", "shop:stock"], {"KAFKASAGA_DATABSE_URL": "x"}, "did you mean KAFKASAGA_DATABASE_URL?"),
        (["run", "shop:stock", "--database-url", "nonsense"], SERVERS, "the database URL cannot be read"),
        (["run", "shop:stock", "--database-url", "mysql://x/y"], SERVERS, "in PostgreSQL or SQLite, not in 'mysql'"),
        (["run", "shop"], {}, "write module:name"),
        (["run", "nowhere:stock"], {}, "there is no module 'nowhere'"),
        (["run", "shop:stok"], {}, "shop has: stock, orders"),
        (["run", "shop:stock", "--role", "cook"], {}, "there is only consumer, relay, timekeeper, pruner"),
        (["topics", "create", "shop:stock"], {}, "set KAFKASAGA_BOOTSTRAP_SERVERS"),
        (["db", "upgrade"], {}, "no database: set KAFKASAGA_DATABASE_URL"),
        (["saga", "list"], {}, "no database: set KAFKASAGA_DATABASE_URL"),
    ],
    ids=map(str, range(15)),
)
def test_a36_a_wrong_setting_is_refused_with_its_remedy(
    arguments: list[str], environment: dict[str, str], says: str
) -> None:
    assert says in refused(*arguments, **environment)


def test_a_raw_kafka_setting_that_would_break_a_guarantee_is_refused(ready: str, embedded_kafka: EmbeddedKafka) -> None:
    settings = {"KAFKASAGA_DATABASE_URL": ready, "KAFKASAGA_KAFKA": '{"enable.idempotence": false}'}
    message = refused("run", "shop:stock", "--bootstrap-servers", embedded_kafka.bootstrap_servers, **settings)
    assert "enable.idempotence" in message
    assert "I4" in message


def test_missing_tables_are_named_with_the_command_that_makes_them(sqlite_url: str) -> None:
    message = refused("run", "shop:stock", "--database-url", sqlite_url, "--bootstrap-servers", NOBODY)
    assert f"kafkasaga db upgrade --prefix stock_ --database-url {sqlite_url}" in message


def test_an_old_schema_is_named_with_the_command_that_upgrades_it(ready: str) -> None:
    engine = create_engine(ready)
    with engine.begin() as connection:
        connection.execute(text("UPDATE stock_kafkasaga_version SET version_num = 'from the future'"))
    engine.dispose()
    message = refused("run", "shop:stock", "--database-url", ready, "--bootstrap-servers", NOBODY)
    assert "newer than this kafkasaga" in message


def test_missing_topics_are_named_with_the_command_that_makes_them(ready: str, embedded_kafka: EmbeddedKafka) -> None:
    servers = embedded_kafka.bootstrap_servers
    message = refused("run", "shop:stock", "--database-url", ready, "--bootstrap-servers", servers)
    assert "shop.reserve" in message
    assert f"kafkasaga topics create shop:stock --bootstrap-servers {servers}" in message
    status, output = command("topics", "create", "shop:stock", "--bootstrap-servers", servers)
    assert (status, output.count("created")) == (0, 7), output
    status, output = command("topics", "create", "shop:stock", "--bootstrap-servers", servers)
    assert (status, output.count("exists")) == (0, 7), output


def test_a_broker_that_is_not_there_is_told_of_with_its_reason_and_sigterm_ends_the_wait(ready: str) -> None:
    environment = {"KAFKASAGA_DATABASE_URL": ready, "KAFKASAGA_BOOTSTRAP_SERVERS": NOBODY}
    program = Program(["run", "shop:stock"], environment)
    try:
        until(lambda: "waiting for what is away" in program.output(), "it says so")
        assert "Connection refused" in program.output()
        assert "Ctrl-C stops" in program.output()
        assert program.terminate()[0] == 0
    finally:
        program.end()


def test_two_handlers_of_one_message_are_refused(tmp_path: Path) -> None:
    source = (
        "from shop import Release, Reserve, stock\n@stock.handler\ndef reserve_too(command: Reserve) -> None: ...\n"
    )
    (tmp_path / "twice.py").write_text(source)
    folders = {"PYTHONPATH": f"{tmp_path}:{Path(__file__).parent}:{Path(__file__).parents[2] / 'src'}"}
    message = refused("run", "twice:stock", **folders)
    assert "two handlers for Reserve in consumer 'stock'" in message


def test_i15_a_saga_under_way_that_is_no_longer_defined_is_named(real_shop: Shop, tmp_path: Path) -> None:
    with real_shop.process("orders") as orders:
        real_shop.place("1")
        until(lambda: real_shop.store("orders").queries().counts().sagas, "a saga is under way")
        assert orders.terminate()[0] == 0
    (tmp_path / "later.py").write_text(
        "from shop import orders as before\nfrom kafkasaga import Service\n"
        "orders = Service('orders', outbox=before.outbox)\n"
    )
    folders = {"PYTHONPATH": f"{tmp_path}:{Path(__file__).parent}:{Path(__file__).parents[2] / 'src'}"}
    message = refused("run", "later:orders", **real_shop.environment, **folders)
    assert "sagas under way that it no longer defines: 'place-order' version 1 (1)" in message


def test_sigterm_finishes_what_has_begun_and_exits_0(real_shop: Shop) -> None:
    with real_shop.process("stock") as stock, real_shop.process("orders") as orders:
        real_shop.place(*(f"good{n}" for n in range(100)))
        until(lambda: len(real_shop.ended()) > 10, "it works")
        for program in (orders, stock):
            status, output = program.terminate()
            assert status == 0, output
            assert "service stopped" in output
        for service in ("stock", "orders"):
            assert real_shop.store(service).queries().counts().outbox == 0, "what was committed is published"


def test_the_relay_alone_publishes_for_whoever_wrote(real_shop: Shop) -> None:
    """Also where sagas are under way that it does not know."""
    real_shop.place("1")
    with real_shop.process("orders") as orders:
        until(lambda: real_shop.store("orders").queries().counts().sagas, "a saga is under way")
        orders.kill()
    real_shop.place("2")
    relay = Program(["relay", "--prefix", "orders_"], real_shop.environment)
    try:
        until(lambda: real_shop.store("orders").queries().counts().outbox == 0, "it publishes")
        assert relay.terminate()[0] == 0
    finally:
        relay.end()


def test_sagas_can_be_listed_shown_and_verified(shop: Shop) -> None:
    with shop.running():
        shop.place("a[red]b", "declined1")
        until(lambda: len(shop.ended()) == 2, "they end")
    place = ("--prefix", "orders_", "--database-url", shop.database_url)
    status, listed = command("saga", "list", *place)
    assert status == 0, listed
    assert "a[red]b" in listed
    assert "cancelled" in listed
    (found,) = shop.store("orders").queries().sagas(key="a[red]b")
    assert str(found.saga_id) in listed, "an id can be copied"
    status, shown = command("saga", "show", str(found.saga_id), *place)
    assert status == 0, shown
    assert "key a[red]b: completed" in shown
    (sent,) = (line for line in shown.splitlines() if "command-sent" in line and f"{shop.topics}.reserve" in line)
    assert " reserve " in sent, "one event, one line"
    status, verified = command("saga", "verify", *place)
    assert (status, "2 sagas verified, 0 wrong." in verified) == (0, True), verified
    table = shop.store("orders").tables.saga_log
    with shop.store("orders").engine.begin() as connection:
        connection.execute(table.delete().where(table.c.saga_id == found.saga_id, table.c.seq == 2))
    status, verified = command("saga", "verify", *place)
    assert (status, "2 sagas verified, 1 wrong." in verified) == (1, True), verified
    status, shown = command("saga", "show", "00000000-0000-0000-0000-000000000000", *place)
    assert (status, "There is no saga" in shown) == (1, True)
    status, shown = command("saga", "show", "a[red]b", *place)
    assert (status, "key a[red]b: completed" in shown) == (0, True), shown
    status, shown = command("saga", "show", "nobody", *place)
    assert (status, "There is no saga with the id or the key nobody." in shown) == (1, True)
    status, wrong = command("saga", "list", "--status", "bogus", *place)
    assert (status, "'bogus' is none of running, compensating" in wrong, "Value error" in wrong) == (2, True, False)
    status, empty = command("saga", "list", "--key", "nobody", *place)
    assert (status, "No saga matches." in empty) == (0, True)
