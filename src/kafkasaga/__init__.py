"""Sagas over Apache Kafka: declared as data, carried by an outbox, taken once, and recovered by any replica.

Everything that a service needs is here; ``kafkasaga.testing`` has what its tests need, and ``scenario`` is here too.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from kafkasaga.errors import ConfigurationError, DefinitionError, KafkasagaError
    from kafkasaga.messages import Message, SagaState
    from kafkasaga.runtime import Service
    from kafkasaga.runtime.logs import configure_logging
    from kafkasaga.runtime.operator import Operator
    from kafkasaga.saga.definition import Cancellation, Ends, Saga
    from kafkasaga.saga.flow import Each, LocalStep, Step, WaitFor, parallel, reply
    from kafkasaga.saga.policy import Retry, exponential
    from kafkasaga.settings import Settings
    from kafkasaga.stores import Outbox, Received, idempotent
    from kafkasaga.testing import scenario

__all__ = [
    "Cancellation",
    "ConfigurationError",
    "DefinitionError",
    "Each",
    "Ends",
    "KafkasagaError",
    "LocalStep",
    "Message",
    "Operator",
    "Outbox",
    "Received",
    "Retry",
    "Saga",
    "SagaState",
    "Service",
    "Settings",
    "Step",
    "WaitFor",
    "configure_logging",
    "exponential",
    "idempotent",
    "parallel",
    "reply",
    "scenario",
]

_HOMES: Final = {
    "kafkasaga.errors": ("ConfigurationError", "DefinitionError", "KafkasagaError"),
    "kafkasaga.messages": ("Message", "SagaState"),
    "kafkasaga.runtime": ("Service",),
    "kafkasaga.runtime.logs": ("configure_logging",),
    "kafkasaga.runtime.operator": ("Operator",),
    "kafkasaga.saga.definition": ("Cancellation", "Ends", "Saga"),
    "kafkasaga.saga.flow": ("Each", "LocalStep", "Step", "WaitFor", "parallel", "reply"),
    "kafkasaga.saga.policy": ("Retry", "exponential"),
    "kafkasaga.settings": ("Settings",),
    "kafkasaga.stores": ("Outbox", "Received", "idempotent"),
    "kafkasaga.testing": ("scenario",),
}
_HOME: Final = {name: module for module, names in _HOMES.items() for name in names}


if not TYPE_CHECKING:  # a checker would take any name for public then

    def __getattr__(name: str) -> Any:
        # Loaded when it is asked for: the command line decides first how to load (`cli.loading`), a service does not
        # load what only tests need, nor an application that only publishes what a saga needs.
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        found = globals()[name] = getattr(import_module(_HOME[name]), name)
        return found
