"""The course of a run: start, load, break, wait until all is quiet, check; again, for as long as there is time."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from kafkasaga.examples.order_system.demo.seed import INITIAL_STOCK
from tests.faults.real.account import Account, Happened
from tests.faults.real.checker import READS, Evidence, Request, Verdict, gather, judge, topic_ends
from tests.faults.real.deck import deal, planned
from tests.faults.real.faults import DECK, Scene
from tests.faults.real.load import MeterLoad, OrderLoad
from tests.faults.real.options import Options
from tests.faults.real.progress import Progress
from tests.faults.real.system import System, running_system, until_ready

QUIET_PATIENCE = 3.0
"""For everything to come to its end, in patiences: a step's deadline and its retry are within."""
LEFT = """
SELECT (SELECT count(*) FROM outbox)
     + (SELECT count(*) FROM saga WHERE status NOT IN ('completed', 'cancelled'))
     + (SELECT count(*) FROM parked_message WHERE status = 'waiting')
"""


@dataclass
class Run:
    """A run, and what is known of it at any time."""

    options: Options
    tell: Callable[[str], None]
    account: Account = field(default_factory=Account)
    verdict: Verdict | None = None
    exits: dict[str, int | None] = field(default_factory=dict[str, int | None])
    ended_by_themselves: list[str] = field(default_factory=list[str])
    requests_repeated: int = 0
    rounds: int = 0

    def do(self, folder: Path) -> Verdict:
        """All of it."""
        self.account.planned = planned(DECK, self.options.only)
        with running_system(folder, self.options.session_timeout, self.options.patience) as system:
            until_ready(system, self.options.patience)
            orders = OrderLoad(system.front, self.options.orders, self.options.seed)
            with (
                closing(Progress(system.urls)) as progress,
                closing(MeterLoad(system.urls["meter"], self.options.readings, self.options.seed)) as meters,
            ):
                scene = Scene(system, progress, Random(self.options.seed), self.account, self.options.patience)
                self._rounds(scene, orders, meters)
                self.exits = system.stop()
                self.ended_by_themselves = system.deaths_by_themselves
                self.requests_repeated = orders.repeated
                self.verdict = check(system, orders, meters)
        return self.verdict

    def _rounds(self, scene: Scene, orders: OrderLoad, meters: MeterLoad) -> None:
        """A round is once through the deck; after each one everything must come to rest and be as it should be.

        The first round has no end before each of its faults was reached; the others end when the time is over.
        """
        end: float | None = None
        while end is None or time.monotonic() < end:
            self.rounds += 1
            orders.start()
            meters.start()
            if scene.goes_on() is None:
                self.tell("the system does not work even before anything is broken")
                return
            end = end or time.monotonic() + self.options.minutes * 60
            self._break(scene, end)
            meters.stop()
            orders.stop(2 * scene.patience)
            quiet = self._until_quiet(scene)
            self.verdict = check(scene.system, orders, meters)
            self.tell(f"round {self.rounds}: {self.verdict.records} records, {_words(self.verdict)}")
            if not (quiet and self.verdict.good):
                return

    def _break(self, scene: Scene, end: float) -> None:
        for name in deal(self.account, scene.random, for_ever=bool(self.options.only)):
            if time.monotonic() >= end and not self.account.outstanding:
                return
            happened = DECK[name](scene)
            scene.goes_on()
            self.account.add(name, happened)
            self.tell(_line(name, happened))
            if self.account.failures:
                self.tell("; ".join(self.account.failures))
                return

    def _until_quiet(self, scene: Scene) -> bool:
        """Until nothing is left anywhere: no row to send, no saga under way, no record unread."""
        system = scene.system

        def nothing_left() -> bool:
            system.start_what_ended()
            return not any(scene.progress.rows(service, LEFT)[0][0] for service in system.urls)

        def nothing_unread() -> bool:
            ends = topic_ends(system.kafka.bootstrap_servers)
            read = {service: scene.progress.of(service) for service in system.urls}
            return all(
                (place := read[service].get(at)) is not None and place.next >= end
                for at, end in ends.items()
                for service, topics in READS.items()
                if at[0] in topics and end > 0
            )

        within = QUIET_PATIENCE * scene.patience
        if scene.progress.wait(lambda: nothing_left() and nothing_unread() and nothing_left(), within) is None:
            self.account.failures.append(f"not everything came to its end within {within:.0f} s")
            return False
        return True


def check(system: System, orders: OrderLoad, meters: MeterLoad) -> Verdict:
    requests = {
        str(id): Request(str(planned.expected), {line["sku"]: line["quantity"] for line in planned.body["lines"]})
        for id, planned in orders.planned.items()
    }
    evidence = Evidence(requests, dict(meters.sent), dict(INITIAL_STOCK))
    return judge(gather(evidence, system.kafka.bootstrap_servers, system.urls))


def _line(name: str, happened: Happened) -> str:
    seconds = "" if happened.seconds is None else f" {happened.seconds:6.2f} s"
    return f"{name:40} {happened.detail:45}{seconds}{'' if happened.reached else '  NOT REACHED'}"


def _words(verdict: Verdict) -> str:
    return ", ".join(f"{len(texts)} {kind}" for kind, texts in verdict.wrong.items())
