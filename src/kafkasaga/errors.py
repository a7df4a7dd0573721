"""Every error that kafkasaga raises on purpose.

::

    KafkasagaError
    ├── DefinitionError          a message, saga, handler or service is declared wrongly        (import)
    ├── ConfigurationError       a setting is missing, wrong, or would break a guarantee         (start)
    │   ├── SchemaError          the library's tables are missing, old, or newer than the code   (start)
    │   └── TopicsError          topics that the service needs do not exist                      (start)
    ├── EnvironmentUnavailable   something outside is away; the work is kept and tried again     (run)
    │   ├── DatabaseUnavailable
    │   │   └── DatabaseRefused      it is there and does not let us in: at the start, an error     (start)
    │   ├── BrokerUnavailable
    │   │   └── BrokerRefused        Kafka is there and does not let us in: likewise                (start)
    │   └── HandlersFailing
    ├── SerializationConflict    two transactions met; the database rolled one back: run it again (run)
    │   ├── Deadlock                 each waited for what the other one held                         (run)
    │   └── TurnTimeout              the others of the same database did not come to an end          (run)
    ├── UndecodableMessage       a record is not a message that this service understands          (run)
    ├── UnencodableMessage       a message is too large, nested too deep, or not text             (publish)
    └── CorruptLog               a saga's log does not fold to its stored state                   (verify)

A docstring below is the sentence that a user reads first; the instance's text names what is wrong and the remedy.
"""

from __future__ import annotations

from collections.abc import Sequence


class KafkasagaError(Exception):
    """The root: catch it to catch everything that this library raises on purpose."""


class DefinitionError(KafkasagaError, TypeError):
    """A definition is wrong; the message lists every problem with its remedy."""

    @classmethod
    def listing(cls, subject: str, problems: Sequence[str]) -> DefinitionError:
        """One error for all ``problems`` of ``subject``, numbered."""
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        return cls("\n".join([f"{subject} has {count}:", *(f"  {n}. {text}" for n, text in enumerate(problems, 1))]))


class ConfigurationError(KafkasagaError):
    """The service cannot start as it is configured."""


class SchemaError(ConfigurationError):
    """The library's tables are missing, old, or newer than this version."""


class TopicsError(ConfigurationError):
    """Topics that the service reads or writes do not exist."""


class EnvironmentUnavailable(KafkasagaError):
    """Something outside this process is away for now. Nothing is lost; the work is tried again."""


class DatabaseUnavailable(EnvironmentUnavailable):
    """The database does not answer, or closed the connection."""


class DatabaseRefused(DatabaseUnavailable):
    """The database does not let us in, or we do not trust it. Waiting does not help: change what it names."""


class BrokerUnavailable(EnvironmentUnavailable):
    """Kafka does not answer."""


class BrokerRefused(BrokerUnavailable):
    """Kafka does not let us in, or we do not trust it. Waiting does not help: change what it names."""


class HandlersFailing(EnvironmentUnavailable):
    """Every message fails, one after the other: what handlers need is away, or the service is broken."""


class SerializationConflict(KafkasagaError):
    """The database refused a transaction because of a concurrent one; it is safe to run it again."""


class Deadlock(SerializationConflict):
    """Two transactions waited for each other, and the database ended this one; without the other it succeeds."""


class TurnTimeout(SerializationConflict):
    """A batch has waited too long for its turn among those of its database."""


class UndecodableMessage(KafkasagaError):
    """A record from Kafka is not a message that this service can read."""


class UnencodableMessage(KafkasagaError):
    """A message cannot be published: it is too large, nested too deep, or not to be written. Nothing of it is kept."""


class CorruptLog(KafkasagaError):
    """A saga's log does not fold to a legal state."""
