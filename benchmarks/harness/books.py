"""The business tables of the order system: what lies there before a run, and what must lie there after it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import LiteralString

import psycopg

from benchmarks.harness.figures import expect
from benchmarks.harness.machine import connect
from benchmarks.harness.orders import is_declined, order_id
from kafkasaga.examples.order_system.demo.seed import INITIAL_STOCK


def add_orders(url: str, orders: int) -> None:
    """Orders that wait to be created, as the shop's front leaves them."""
    with connect(url) as connection, connection.cursor() as cursor:
        with cursor.copy("COPY customer_order (id, request, status) FROM STDIN") as copy:
            for number in range(orders):
                copy.write_row((order_id(number), "{}", "VALIDATING"))
        cursor.execute("ANALYZE")


def check_rows(databases: Mapping[str, psycopg.Connection], sent: Collection[int]) -> None:
    """The business tables hold what these orders must have left there, and nothing else."""
    good, declined = expected_ends(sent)
    expect("orders (completed, cancelled)", orders_ended(databases["order"]), (good, declined))
    expect("changes of orders", rows(databases["order"], "order_history"), 2 * len(sent))
    expect("charges", rows(databases["payment"], "charge"), good)
    expect("refunds", rows(databases["payment"], "refund"), 0)
    stock = databases["inventory"].execute("SELECT sum(available), sum(reserved), sum(sold) FROM stock").fetchone()
    expect("stock (available, reserved, sold)", stock, (sum(INITIAL_STOCK.values()) - good, 0, good))
    expect("reservations", rows(databases["inventory"], "reservation"), len(sent))
    expect("reservations sold", sold(databases["inventory"]), good)


def expected_ends(sent: Collection[int]) -> tuple[int, int]:
    """How many of these orders are to be completed, and how many cancelled."""
    declined = sum(is_declined(number) for number in sent)
    return len(sent) - declined, declined


def orders_ended(connection: psycopg.Connection) -> tuple[int, int]:
    """How many are completed, and how many cancelled."""
    query = "SELECT status::text, count(*) FROM customer_order GROUP BY 1"
    counts: dict[str, int] = dict(connection.execute(query).fetchall())
    return counts.get("COMPLETED", 0), counts.get("CANCELLED", 0)


def sold(connection: psycopg.Connection) -> int:
    """How many reservations became sales."""
    return _first(connection, "SELECT count(*) FROM reservation WHERE status = 'SOLD'")


def rows(connection: psycopg.Connection, table: LiteralString) -> int:
    """How many a table has."""
    return _first(connection, f"SELECT count(*) FROM {table}")  # noqa: S608 (our own names)


def _first(connection: psycopg.Connection, query: LiteralString) -> int:
    found = connection.execute(query).fetchone()
    return found[0] if found else 0
