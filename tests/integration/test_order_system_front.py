"""The order system's HTTP front, with its service beside it in one process."""

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import httpx
import pytest
import uvicorn
from sqlalchemy import create_engine, func, select
from sqlalchemy.orm import Session

from kafkasaga import Settings
from kafkasaga.examples.order_system.front import create_app
from kafkasaga.examples.order_system.order import Base, Order, order
from kafkasaga.kafka import create_topics
from kafkasaga.stores import create_store
from kafkasaga.stores.migrations import upgrade
from kafkasaga.testing import EmbeddedKafka

BODY = {"customer_id": "ann", "lines": [{"sku": "tea", "quantity": 2}, {"sku": "pot", "quantity": 1}]}


@pytest.fixture(scope="module")
def database_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An SQLite database with all tables; of this module, so that the service starts only once."""
    url = f"sqlite:///{tmp_path_factory.mktemp('front') / 'order.sqlite'}"
    store = create_store(url, order.outbox)
    upgrade(store.engine, store.tables)
    Base.metadata.create_all(store.engine)
    store.close()
    return url


@pytest.fixture(scope="module")
def front(database_url: str) -> Iterator[httpx.Client]:
    with EmbeddedKafka() as broker:
        settings = Settings.load(
            database_url=database_url, bootstrap_servers=broker.bootstrap_servers, kafka=broker.kafka
        )
        create_topics(settings, sorted(order.reads | order.writes))
        with (
            served(uvicorn.Config(create_app(settings), log_level="warning")) as url,
            httpx.Client(base_url=url) as client,
        ):
            yield client


@contextmanager
def served(config: uvicorn.Config) -> Iterator[str]:
    """The URL of a web server in a thread."""
    server = uvicorn.Server(config)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join()


def orders(database_url: str) -> int:
    engine = create_engine(database_url)
    with Session(engine) as session:
        count = session.scalar(select(func.count()).select_from(Order))
    engine.dispose()
    assert count is not None
    return count


def test_an_order_is_accepted_and_found_at_its_location(front: httpx.Client) -> None:
    accepted = front.post("/orders", json=BODY)
    assert accepted.status_code == 202
    found = front.get(accepted.headers["Location"])
    assert found.status_code == 200
    shown = found.json()
    assert shown["id"] == accepted.json()["order_id"]
    assert (shown["status"], shown["reason"], shown["total"]) == ("validating", None, None)
    assert [change["status"] for change in shown["history"]] == ["validating"]
    assert shown["history"][0]["at"].endswith("Z")


def test_an_unknown_order_is_not_found(front: httpx.Client) -> None:
    assert front.get(f"/orders/{uuid4()}").status_code == 404
    assert front.get("/orders/nonsense").status_code == 422


def with_lines(*lines: Any) -> dict[str, Any]:
    return {"customer_id": "ann", "lines": list(lines)}


@pytest.mark.parametrize(
    "body",
    [
        pytest.param({}, id="empty"),
        pytest.param([], id="not an object"),
        pytest.param({**BODY, "discount": 100}, id="unknown field"),
        pytest.param({**BODY, "customer_id": ""}, id="nobody"),
        pytest.param({**BODY, "customer_id": 7}, id="customer is a number"),
        pytest.param({**BODY, "customer_id": "x" * 41}, id="customer too long"),
        pytest.param(with_lines(), id="no lines"),
        pytest.param(with_lines({"sku": "tea"}), id="no quantity"),
        pytest.param(with_lines({"sku": "tea", "quantity": 0}), id="zero"),
        pytest.param(with_lines({"sku": "tea", "quantity": -1}), id="negative"),
        pytest.param(with_lines({"sku": "tea", "quantity": 1.5}), id="half a one"),
        pytest.param(with_lines({"sku": "tea", "quantity": "2"}), id="quantity is text"),
        pytest.param(with_lines({"sku": "tea", "quantity": 1_000_000}), id="too many"),
        pytest.param(with_lines({"sku": "tea", "quantity": 1, "price": 0}), id="unknown field of a line"),
        pytest.param(with_lines(*[{"sku": "tea", "quantity": 1}] * 2), id="one product twice"),
        pytest.param(with_lines(*[{"sku": f"p{n}", "quantity": 1} for n in range(51)]), id="too many lines"),
    ],
)
def test_nonsense_is_refused_and_leaves_nothing(front: httpx.Client, database_url: str, body: Any) -> None:
    before = orders(database_url)
    assert front.post("/orders", json=body).status_code == 422
    assert orders(database_url) == before


def test_a_body_that_is_not_json_is_refused(front: httpx.Client) -> None:
    headers = {"Content-Type": "application/json"}
    assert front.post("/orders", content=b"{", headers=headers).status_code == 422


def test_one_idempotency_key_is_one_order(front: httpx.Client, database_url: str) -> None:
    headers = {"Idempotency-Key": "one"}
    before = orders(database_url)
    answers = [front.post("/orders", json=BODY, headers=headers) for _ in range(3)]
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.headers["Location"] for answer in answers}) == 1
    assert orders(database_url) == before + 1


def test_one_idempotency_key_many_times_at_once_is_one_order(front: httpx.Client, database_url: str) -> None:
    before = orders(database_url)

    def post(_: int) -> tuple[int, str]:
        answer = front.post("/orders", json=BODY, headers={"Idempotency-Key": "at once"})
        return answer.status_code, answer.headers["Location"]

    with ThreadPoolExecutor(8) as pool:
        answers = set(pool.map(post, range(16)))
    assert [status for status, _ in answers] == [202]
    assert orders(database_url) == before + 1


def test_one_idempotency_key_for_two_bodies_is_refused(front: httpx.Client) -> None:
    headers = {"Idempotency-Key": "two"}
    first = front.post("/orders", json=BODY, headers=headers)
    assert first.status_code == 202
    second = front.post("/orders", json=with_lines({"sku": "tea", "quantity": 3}), headers=headers)
    assert second.status_code == 422
    assert "Idempotency-Key" in second.json()["detail"]


def test_without_an_idempotency_key_each_request_is_an_order(front: httpx.Client) -> None:
    locations = {front.post("/orders", json=BODY).headers["Location"] for _ in range(2)}
    assert len(locations) == 2


@pytest.mark.parametrize("key", ["", "x" * 201])
def test_an_unusable_idempotency_key_is_refused(front: httpx.Client, key: str) -> None:
    assert front.post("/orders", json=BODY, headers={"Idempotency-Key": key}).status_code == 422
