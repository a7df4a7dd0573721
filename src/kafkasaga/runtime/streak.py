"""Telling a systemic failure from a bad message (A22): where nothing succeeds any more, consuming waits and probes."""

from __future__ import annotations

from typing import Final

import structlog

from kafkasaga.errors import HandlersFailing
from kafkasaga.runtime.parking import in_words

log = structlog.get_logger("kafkasaga.consumer")

LIMIT: Final = 10
"""So many messages in a row have failed, with no success between, and the reason is not the messages."""


class Streak:
    """Failures in a row."""

    def __init__(self) -> None:
        self._failed = 0

    @property
    def systemic(self) -> bool:
        """Whether everything fails."""
        return self._failed >= LIMIT

    def failed(self, error: Exception) -> None:
        """A message has failed and was parked.

        Raises:
            HandlersFailing: if it is one of many in a row.
        """
        self._failed += 1
        if self._failed == LIMIT:
            log.error("every message fails; consuming slows down and tries one at a time", error=in_words(error))
        if self.systemic:
            raise HandlersFailing(
                f"{self._failed} messages in a row have failed; the last: {in_words(error)}"
            ) from error

    def succeeded(self) -> None:
        """A message was handled."""
        if self.systemic:
            log.info("messages are handled again", failed=self._failed)
        self._failed = 0
