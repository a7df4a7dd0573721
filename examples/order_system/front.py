"""The Order service's front: place an order, look at it.

An order is accepted (202) before anybody was asked; its address says what became of it. Placing it twice with one
``Idempotency-Key`` gives one order and twice the same answer. The same key with another body is 422, as the IETF's
draft of that header has it: sending it again will never help (409 is for a conflict that passes).
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated
from uuid import UUID, uuid4, uuid5

from fastapi import Depends, FastAPI, Header, HTTPException, Request, Response
from pydantic import AfterValidator, BaseModel, Field
from sqlalchemy import create_engine
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, sessionmaker

from kafkasaga import Settings

from .contracts import Lines
from .order import Order, Status, order, place

KEYS = UUID("3f0d6c1c-5a0b-4c6e-9d0a-6f1f6f64656b")
"""An order's id is derived from its Idempotency-Key, so that the database itself refuses a second one."""


class NewOrder(BaseModel, extra="forbid"):
    customer_id: str = Field(min_length=1, max_length=40)
    lines: Lines


class Accepted(BaseModel):
    order_id: UUID


def as_utc(time: datetime) -> datetime:
    """SQLite keeps UTC, but does not say so."""
    return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)


class ChangeView(BaseModel, from_attributes=True):
    status: Status
    at: Annotated[datetime, AfterValidator(as_utc)]


class OrderView(BaseModel, from_attributes=True):
    id: UUID
    status: Status
    reason: str | None
    total: Decimal | None
    history: list[ChangeView]


def sessions(request: Request) -> sessionmaker[Session]:
    found: sessionmaker[Session] = request.app.state.sessions
    return found


Sessions = Annotated[sessionmaker[Session], Depends(sessions)]
IdempotencyKey = Annotated[str | None, Header(min_length=1, max_length=200)]


def create_app(settings: Settings | None = None) -> FastAPI:
    """The web application, with the service's consumer, relay and timekeeper beside it in one process."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        loaded = settings or Settings.load()
        engine = create_engine(loaded.database_url.get_secret_value(), pool_pre_ping=True)
        app.state.sessions = sessionmaker(engine, expire_on_commit=False)
        with order.running(loaded):
            yield
        engine.dispose()

    app = FastAPI(title="Orders", lifespan=lifespan)
    app.post("/orders", status_code=202)(post_order)
    app.get("/orders/{order_id}")(get_order)
    return app


def post_order(
    new: NewOrder, response: Response, sessions: Sessions, idempotency_key: IdempotencyKey = None
) -> Accepted:
    order_id = uuid4() if idempotency_key is None else uuid5(KEYS, idempotency_key)
    placed = place_or_find(sessions, order_id, new)
    if placed.request != new.model_dump_json():
        raise HTTPException(422, "this Idempotency-Key was used for another order; use a new one")
    response.headers["Location"] = f"/orders/{order_id}"
    return Accepted(order_id=order_id)


def get_order(order_id: UUID, sessions: Sessions) -> OrderView:
    with sessions() as session:
        found = session.get(Order, order_id)
        if found is None:
            raise HTTPException(404, "no such order")
        return OrderView.model_validate(found)


def place_or_find(sessions: sessionmaker[Session], order_id: UUID, new: NewOrder) -> Order:
    try:
        with sessions.begin() as session:
            return place(session, order_id, new.customer_id, new.lines, new.model_dump_json())
    except IntegrityError:  # this Idempotency-Key has an order already
        with sessions() as session:
            return session.get_one(Order, order_id)
