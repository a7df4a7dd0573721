"""faststream-outbox, relaying to Kafka: runs in an environment of its own.

python faststream_app.py DATABASE_URL BOOTSTRAP_SERVERS TOPIC QUEUE WORKERS
"""

import asyncio
import logging
import sys

from faststream import FastStream
from faststream.kafka import KafkaBroker
from faststream.kafka.response import KafkaResponse
from faststream_outbox import OutboxBroker, make_outbox_table, outbox_autovacuum_ddl
from faststream_outbox.annotations import OutboxMessage
from sqlalchemy import MetaData, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

FETCHED, DELETED = 1000, 100
"""Rows of a fetch, and rows that are deleted at once."""


async def main(url: str, bootstrap_servers: str, topic: str, queue: str, workers: int) -> None:
    metadata = MetaData()
    table = make_outbox_table(metadata)
    engine = create_async_engine(url, pool_size=workers + 2)
    await create(engine, metadata)
    outbox = OutboxBroker(engine, outbox_table=table, logger=None)
    kafka = KafkaBroker(bootstrap_servers, acks="all", enable_idempotence=True, logger=None)

    @kafka.publisher(topic)
    @outbox.subscriber(
        queue,
        max_workers=workers,
        fetch_batch_size=FETCHED,
        min_fetch_interval=0.1,
        terminal_flush_batch_size=DELETED,
        decoder=undecoded,
    )
    async def relay(body: bytes, message: OutboxMessage) -> KafkaResponse:
        return KafkaResponse(body, key=message.headers["key"].encode(), headers=message.headers)

    await FastStream(outbox, on_startup=[kafka.connect], logger=None).run()


async def undecoded(message: OutboxMessage) -> bytes:
    """It is JSON, and goes on as it is."""
    body: bytes = message.body
    return body


async def create(engine: AsyncEngine, metadata: MetaData) -> None:
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
        await connection.execute(text(outbox_autovacuum_ddl("outbox")))


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    url, bootstrap_servers, topic, queue, workers = sys.argv[1:]
    asyncio.run(main(url, bootstrap_servers, topic, queue, int(workers)))
