"""The session that a handler gets: bound to the batch's transaction, which is not the handler's to end."""

from __future__ import annotations

from typing import NoReturn

from sqlalchemy import Connection
from sqlalchemy.orm import Session

from kafkasaga.errors import DefinitionError


class HandlerSession(Session):
    """A session whose transaction belongs to the runtime.

    ``commit()``, ``rollback()`` and ``close()`` raise: a handler that commits would make half a batch visible, and one
    that rolls back would undo what other handlers of the batch did. For a part that may fail, use
    ``session.begin_nested()``. If something rolls the transaction back all the same, the batch fails at its end.
    """

    def __init__(self, connection: Connection) -> None:
        super().__init__(bind=connection, join_transaction_mode="rollback_only", autobegin=False)
        self.begin()

    def commit(self) -> NoReturn:
        _refuse("commit", "kafkasaga commits after the last handler of the batch; return from the handler instead")

    def rollback(self) -> NoReturn:
        _refuse("rollback", "raise an error to have the message tried again, or use `with session.begin_nested():`")

    def close(self) -> NoReturn:
        _refuse("close", "kafkasaga closes the session; leave it as it is")

    def detach(self) -> None:
        """Let go of the connection, which stays as it is: the runtime's own way to end the session."""
        super().close()


def _refuse(method: str, remedy: str) -> NoReturn:
    raise DefinitionError(f"a handler called session.{method}(): {remedy}")
