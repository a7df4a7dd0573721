"""What of a service's database may be forgotten, and when; and whether that is late enough.

What must be remembered for how long:

- The *inbox* recognises a message that comes again. It comes again while its row may still be sent once more (until
  Kafka's answer, and if the relay died before it heard of that, until it is back), and while a copy lies unread in
  the topic. The first two are bounded below; the topic's retention Kafka alone knows.
- The *barrier* recognises a command that a saga sends again, and tells its compensation what there is to undo. So it
  must outlive every saga, with all attempts of all steps there and back, and the time that a command may be parked.
- A *saga's key* makes a second start of it a no-op. A saga that is started under a forgotten key has the ids of the old
  one, so whoever remembers those would not carry it out: inbox and barrier must have forgotten them by then.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Final

from kafkasaga.errors import ConfigurationError
from kafkasaga.ports import Prunable
from kafkasaga.saga.definition import Definition
from kafkasaga.saga.flow import AnyLeaf, LocalStep, WaitFor
from kafkasaga.saga.policy import Retry
from kafkasaga.settings import PREFIX, Settings

AWAY: Final = timedelta(days=1)
"""For so long, at least, a service may be away and still send what it had already sent."""
DELIVERY: Final = timedelta(hours=1)
"""For so long, at most, a producer tries to deliver (``message.timeout.ms``)."""
DAY: Final = timedelta(days=1)

_SETTINGS: Final = {
    Prunable.INBOX: "inbox_days",
    Prunable.BARRIER: "barrier_days",
    Prunable.SAGAS: "saga_days",
    Prunable.SAGA_KEYS: "saga_key_days",
    Prunable.DEAD_LETTERS: "dead_letter_days",
}
_FORGOTTEN_BEFORE_KEYS: Final = (Prunable.INBOX, Prunable.BARRIER, Prunable.SAGAS)


def retention_of(settings: Settings) -> dict[Prunable, timedelta]:
    """What is forgotten, and how old it is then. What is not among it is kept for ever."""
    days = {what: getattr(settings, name) for what, name in _SETTINGS.items()}
    return {what: timedelta(days=count) for what, count in days.items() if count is not None}


def check_retention(keep: Mapping[Prunable, timedelta], definitions: Iterable[Definition], parking: Retry) -> None:
    """Refuse to forget what may still be needed.

    Args:
        keep: how long each thing is kept.
        definitions: the sagas of the service.
        parking: how often parked messages are tried.

    Raises:
        ConfigurationError: naming every setting that is too short, and what to do.
    """
    least = least_retention(definitions, parking)
    problems = [
        *_too_short(keep, Prunable.INBOX, least, "a message may come again for"),
        *_too_short(keep, Prunable.BARRIER, least, "a command may be sent again or undone for"),
        *_too_short(keep, Prunable.SAGA_KEYS, least, "the message that starts a saga may come again for"),
        *_keys(keep),
    ]
    if problems:
        raise ConfigurationError("\n".join(["retention:", *(f"  {problem}" for problem in problems)]))


def least_retention(definitions: Iterable[Definition], parking: Retry) -> dict[Prunable, timedelta]:
    """The shortest times after which nothing that is forgotten can be needed, as far as a service can tell."""
    again = AWAY + DELIVERY + parking.horizon()
    longest = max((horizon(definition) for definition in definitions), default=timedelta())
    return {Prunable.INBOX: again, Prunable.BARRIER: again + longest, Prunable.SAGA_KEYS: again}


def horizon(definition: Definition) -> timedelta:
    """How long a saga may take, every attempt of every step there and back, if they came one after the other."""
    return sum((_longest(step) for step in definition.steps.values()), timedelta())


def _longest(step: AnyLeaf) -> timedelta:
    match step:
        case LocalStep():
            return timedelta()
        case WaitFor():
            return step.deadline
        case _:
            there = step.retry.attempts * step.deadline + step.retry.horizon()
            back = step.compensation_retry.attempts * step.deadline + step.compensation_retry.horizon()
            return there + back if step.compensation is not None else there


def _too_short(
    keep: Mapping[Prunable, timedelta], what: Prunable, least: Mapping[Prunable, timedelta], why: str
) -> list[str]:
    needed = least[what]
    if what not in keep or keep[what] >= needed:
        return []
    remedy = "Set it above that and above the longest retention of your topics, or remove it to forget nothing"
    return [f"{_given(keep, what)} is too short: {why} {_days(needed)} days, or longer. {remedy}"]


def _keys(keep: Mapping[Prunable, timedelta]) -> list[str]:
    """A key that is free again must be free everywhere."""
    if Prunable.SAGA_KEYS not in keep:
        return []
    mine, key = _given(keep, Prunable.SAGA_KEYS), keep[Prunable.SAGA_KEYS]
    why = "a saga whose key was used before has the same ids, which must be forgotten by then"
    never = [what for what in (Prunable.INBOX, Prunable.BARRIER) if what not in keep]
    longer = [what for what in keep if what in _FORGOTTEN_BEFORE_KEYS and keep[what] > key]
    return [
        *(f"{mine} needs {PREFIX}{_SETTINGS[what].upper()}, in every service: {why}. Set both" for what in never),
        *(f"{mine} is shorter than {_given(keep, what)}; make it at least as long" for what in longer),
    ]


def _given(keep: Mapping[Prunable, timedelta], what: Prunable) -> str:
    return f"{PREFIX}{_SETTINGS[what].upper()}={keep[what] / DAY:g}"


def _days(span: timedelta) -> str:
    """Rounded up, so that what is shown is enough."""
    return f"{-(-span // (DAY / 100)) / 100:.2f}"
