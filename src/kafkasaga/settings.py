"""The settings of a service: ``KAFKASAGA_…`` environment variables, checked all at once when it starts."""

from __future__ import annotations

import difflib
import os
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from kafkasaga.errors import ConfigurationError

PREFIX: Final = "KAFKASAGA_"

_NOT_OURS: Final = frozenset({"KAFKASAGA_REQUIRE"})
"""Read by the test suite: which tiers must not be left out."""


class Settings(BaseSettings):
    """What differs from one place a service runs at to another.

    A field is the environment variable of its name in capitals behind ``KAFKASAGA_``: ``KAFKASAGA_DATABASE_URL``.
    Use ``Settings.load``: it reports everything that is wrong in one ``ConfigurationError``.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid", hide_input_in_errors=True)

    database_url: SecretStr = SecretStr("")
    """SQLAlchemy's URL of the service's own database."""
    bootstrap_servers: str = ""
    """Kafka's address: ``host:port``, several with commas."""
    kafka: dict[str, Any] = Field(default_factory=dict[str, Any], repr=False)
    """Settings for librdkafka, handed over untouched; in the environment a JSON object. It may hold passwords."""
    instance_id: Annotated[str, Field(min_length=1)] | None = None
    """Stable and unique for each replica (a pod's ordinal): a restart then takes its partitions over at once."""
    batch_size: int = Field(200, ge=1, le=10_000)
    """The most messages of one transaction."""
    relay_poll_interval: float = Field(1.0, gt=0, le=60)
    """Seconds until the relay looks into the outbox when nothing has woken it."""
    relays: int = Field(1, ge=1, le=8)
    """Relays that share the keys of one outbox; each is active in one process. More than one needs PostgreSQL."""
    max_parked: int = Field(10_000, ge=1)
    """Parked messages of one partition from which on it is read no further."""
    handler_timeout: float = Field(120.0, gt=0)
    """Seconds after which a handler is taken to hang: the process ends with status 86, to be started again."""
    shutdown_timeout: float = Field(20.0, gt=0)
    """Seconds to finish what is under way when the service is told to stop."""
    inbox_days: float | None = Field(None, gt=0)
    """Days for which a handled message is recognised when it comes again; without it, for ever."""
    barrier_days: float | None = Field(None, gt=0)
    """Days for which commands of sagas are known to have been carried out; longer than any saga takes, also a stuck
    one. Without it, for ever."""
    saga_days: float | None = Field(None, gt=0)
    """Days for which a saga keeps its state and its log, since it ended; then only how. Without it, for ever."""
    saga_key_days: float | None = Field(None, gt=0)
    """Days, since the last message for an ended saga, after which its key is free again. Without it, never."""
    dead_letter_days: float | None = Field(None, gt=0)
    """Days for which a dead letter is kept, since it became one; without it, for ever."""
    topic_partitions: int = Field(4, ge=1)
    """Partitions of a topic that ``kafkasaga topics`` makes. Adding some later moves keys: begin with enough."""
    topic_replication: int = Field(-1, ge=-1)
    """Replicas of such a topic; -1 is the brokers' own default."""
    log_format: Literal["console", "json"] = "console"
    """For people, or for a log collector."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """The least important lines that are shown."""

    @classmethod
    def load(cls, **overrides: Any) -> Self:
        """Read the environment; what is given here wins over it (None: not given).

        Raises:
            ConfigurationError: naming every variable that is wrong or unknown, and what to do.
        """
        given = {name: value for name, value in overrides.items() if value is not None}
        problems = [*_unknown_variables(cls), *_unknown_names(cls, given)]
        try:
            # What is unknown is in the list already.
            settings = cls(**{name: value for name, value in given.items() if name in cls.model_fields})
        except ValidationError as error:
            problems += [_problem(item["loc"], item["msg"], given) for item in error.errors(include_input=False)]
        except SettingsError:
            problems.append(
                'KAFKASAGA_KAFKA is not a JSON object; write it like {"security.protocol": "SSL", "ssl.ca.location": …}'
            )
        else:
            if not problems:
                return settings
        raise ConfigurationError("\n".join(["settings:", *(f"  {problem}" for problem in problems)])) from None


def _unknown_variables(cls: type[Settings]) -> list[str]:
    known = [PREFIX + name.upper() for name in cls.model_fields]
    unknown = [
        name for name in os.environ if name.upper().startswith(PREFIX) and name.upper() not in {*known, *_NOT_OURS}
    ]
    return [f"{name} is not a setting; {_meant(name.upper(), known)}" for name in sorted(unknown)]


def _unknown_names(cls: type[Settings], given: dict[str, Any]) -> list[str]:
    known = list(cls.model_fields)
    return [f"{name}= is not a setting; {_meant(name, known)}" for name in given if name not in known]


def _meant(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, 1)
    return f"did you mean {near[0]}?" if near else f"remove it, or use one of {', '.join(known)}"


def _problem(location: tuple[int | str, ...], message: str, given: dict[str, Any]) -> str:
    name = str(location[0]) if location else ""
    variable = f"{name}=" if name in given else PREFIX + name.upper()
    return f"{variable} is wrong: {message[:1].lower()}{message[1:]}; correct it, or remove it for the default"
