"""A saga over two services, end to end, on every broker and database."""

from __future__ import annotations

from confluent_kafka import Producer

from kafkasaga.ports import ParkedStatus
from kafkasaga.stores import Session
from tests.integration.runtime_kit import Shop, until


def test_orders_complete_or_are_undone_once_each(shop: Shop) -> None:
    good, bad = [f"good{n}" for n in range(15)], [f"declined{n}" for n in range(5)]
    with shop.running():
        shop.place(*good, *bad)
        shop.place(*good[:3])  # again, under new ids
        until(lambda: len(shop.ended()) == 20, "all sagas end")
        shop.check()
    assert shop.ended() == dict.fromkeys(good, "completed") | dict.fromkeys(bad, "cancelled")
    assert shop.movements() == {key: ["reserve", "pay"] for key in good} | {key: ["reserve", "release"] for key in bad}


def test_a04_a_record_that_is_there_twice_takes_effect_once(real_shop: Shop) -> None:
    producer = Producer({"bootstrap.servers": real_shop.bootstrap_servers, "log_level": 0})
    for _ in range(3):
        headers: list[tuple[str, str | bytes | None]] = [("ce_id", "one and the same"), ("ce_source", "elsewhere")]
        producer.produce(f"{real_shop.topics}.reserve", b'{"order":"x"}', b"x", headers=headers)
    producer.flush(30)
    with real_shop.running("stock"):
        until(real_shop.movements, "it is handled")
        producer.produce(f"{real_shop.topics}.reserve", b'{"order":"y"}', b"x")
        producer.flush(30)
        until(lambda: "y" in real_shop.movements(), "what comes behind it is handled")
    assert real_shop.movements() == {"x": ["reserve"], "y": ["reserve"]}


def test_i13_what_cannot_be_handled_is_kept_and_the_partition_goes_on(shop: Shop) -> None:
    shop.fault.touch()
    producer = Producer({"bootstrap.servers": shop.bootstrap_servers, "log_level": 0})
    topic = f"{shop.topics}.reserve"
    producer.produce(topic, b"\x00 no json", b"a", partition=0, headers={"x": b"\xff"})
    producer.produce(topic, b"{}", b"b", partition=0, headers={"ce_type": "of another world"})
    producer.produce(topic, b'{"order":"poison1"}', b"c", partition=0, headers={"x": b"\xfe"})
    producer.produce(topic, b'{"order":"behind"}', b"c", partition=0)
    producer.produce(topic, b'{"order":"aside"}', b"d", partition=0)
    producer.flush(30)
    queries = shop.store("stock").queries()
    with shop.running("stock"):
        until(lambda: "aside" in shop.movements(), "the partition goes on")
        until(lambda: len(queries.parked()) == 4, "four are parked")
        assert shop.movements() == {"aside": ["reserve"]}
        undecodable, unknown, poison, behind = queries.parked()
        assert (undecodable.status, undecodable.record.value) == (ParkedStatus.DEAD, b"\x00 no json")
        assert undecodable.record.headers == {"x": b"\xff"}
        assert (unknown.consumer, unknown.status) == ("stock:unknown", ParkedStatus.DEAD)
        assert poison.error.endswith("RuntimeError: the shelf collapsed")
        assert poison.record.headers == {"x": b"\xfe"}
        assert (behind.record.value, behind.attempts) == (b'{"order":"behind"}', 0)
        shop.fault.unlink()
        until(lambda: "behind" in shop.movements(), "what was parked is handled when the cause is gone")
    assert list(shop.movements()) == ["aside", "poison1", "behind"]
    assert len(queries.parked()) == 2


def test_one_percent_of_failures_does_not_stop_the_others(real_shop: Shop) -> None:
    real_shop.fault.touch()
    orders = [f"poison{n}" if n % 100 == 50 else f"good{n}" for n in range(300)]
    with real_shop.running():
        real_shop.place(*orders)
        until(lambda: len(real_shop.ended()) == 297, "the others end")
        real_shop.fault.unlink()
        until(lambda: len(real_shop.ended()) == 300, "the failing ones end when the cause is gone")
        real_shop.check()
    assert real_shop.movements() == {key: ["reserve", "pay"] for key in orders}


def test_a_saga_started_in_a_transaction_of_the_users_own_runs(real_shop: Shop) -> None:
    with Session(real_shop.store("orders").engine) as session, session.begin():
        id = real_shop.module.orders.start(
            session, real_shop.module.PlaceOrder, real_shop.module.OrderState(order="mine")
        )
    with real_shop.running():
        until(lambda: real_shop.ended() == {"mine": "completed"}, "it ends")
        real_shop.check()
    assert real_shop.store("orders").queries().saga(id) is not None
