"""What a transaction on SQLite needs that one on PostgreSQL does not."""

from __future__ import annotations

from sqlalchemy import Connection


def is_sqlite(connection: Connection) -> bool:
    return connection.dialect.name == "sqlite"


def begin_writing(connection: Connection) -> None:
    """Begin the transaction now, as a writer, where the driver would begin it late.

    Python's sqlite3 begins before the first change only. A transaction that has read by then cannot wait for another
    writer (SQLite fails it at once), and a SAVEPOINT outside a transaction is one by itself, whose release commits.
    """
    if is_sqlite(connection):
        driver = connection.connection.driver_connection
        if driver is not None and not driver.in_transaction:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
