"""The four tiers of tests: which fixtures need what, and what happens where a machine lacks it.

A test belongs to a tier because it uses a fixture of that tier. Where a machine cannot run a tier, its tests are
skipped and the summary says so; with `KAFKASAGA_REQUIRE=all` (or a list such as `postgresql,kafka`) they fail instead.
"""

import os
import re
from collections import Counter
from collections.abc import Iterable
from enum import StrEnum
from typing import NoReturn

import pytest

REQUIRE = "KAFKASAGA_REQUIRE"


class Tier(StrEnum):
    """A tier; its value is also the name of its marker."""

    SQLITE = "sqlite"
    POSTGRESQL = "postgresql"
    EMBEDDED = "embedded"
    KAFKA = "kafka"


TIER_OF_FIXTURE = {
    "sqlite_url": Tier.SQLITE,
    "postgres": Tier.POSTGRESQL,
    "private_postgres": Tier.POSTGRESQL,
    "embedded_kafka": Tier.EMBEDDED,
    "kafka": Tier.KAFKA,
    "private_kafka": Tier.KAFKA,
    "secure_postgres": Tier.POSTGRESQL,
    "secure_kafka": Tier.KAFKA,
}
"""Fixtures that others are made of; `postgres_url` uses `postgres`, and so on.

A fixture that runs over several tiers puts the tier's marker on each of its parameters.
"""


def required() -> frozenset[Tier]:
    """The tiers that must not be left out."""
    wanted = os.environ.get(REQUIRE, "").replace(",", " ").split()
    if "all" in wanted:
        return frozenset(Tier)
    try:
        return frozenset(Tier(name) for name in wanted)
    except ValueError as error:
        raise pytest.UsageError(f"{REQUIRE}: {error}; known are all, {', '.join(Tier)}") from None


def leave_out(tier: Tier, reason: str) -> NoReturn:
    """Skip the test that needs this tier, or fail it when the tier is required."""
    if tier in required():
        pytest.fail(f"tier {tier} is required ({REQUIRE}={os.environ[REQUIRE]}) and missing: {reason}", pytrace=False)
    pytest.skip(f"tier {tier} left out: {reason}")


def mark(items: Iterable[pytest.Item]) -> None:
    """Mark each test with the tiers of the fixtures it uses."""
    for item in items:
        names = getattr(item, "fixturenames", ())
        for tier in {TIER_OF_FIXTURE[name] for name in names if name in TIER_OF_FIXTURE}:
            item.add_marker(tier.value)


def summary(counts: Counter[Tier], skipped: Iterable[str]) -> list[str]:
    """One line a tier: what ran, what was left out and why. ``skipped`` are the reasons of skipped tests.

    They are read from the reports, since the tests may have run in processes of their own.
    """
    found = (_LEFT_OUT.search(reason) for reason in skipped)
    left_out = {match["tier"]: match["reason"] for match in found if match is not None}
    lines = []
    for tier in Tier:
        tests = f"{counts[tier]} test{'' if counts[tier] == 1 else 's'}"
        reason = left_out.get(tier)
        lines.append(f"{tier:<12}{tests}" if reason is None else f"{tier:<12}LEFT OUT, {tests}: {reason}")
    return lines


_LEFT_OUT = re.compile(r"tier (?P<tier>\w+) left out: (?P<reason>.*)")
