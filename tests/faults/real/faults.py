"""The faults, one function each: they break something, see that it was broken, repair it, and time what follows."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from random import Random
from typing import TypeAlias

from tests.faults.real.account import Account, Happened
from tests.faults.real.mortal import POINTS
from tests.faults.real.probe import QUESTIONS, Answer, answer
from tests.faults.real.progress import Places, Progress
from tests.faults.real.proxy import Proxy
from tests.faults.real.replica import Replica
from tests.faults.real.system import System
from tests.support import KafkaServer, PostgresServer, ServerError

REACH_PATIENCE = 0.25
"""For a process to come to the point at which it is to die, in patiences."""
BEYOND_SECONDS = 2.5
"""Longer than the session's time-out, to be sure that the group has noticed."""
STAGES = ("started", "imported", "assigned", "progress")
"""Milestones of a process on its way from its start to the first progress."""


@dataclass
class Scene:
    """Everything that a fault needs."""

    system: System
    progress: Progress
    random: Random
    account: Account
    patience: float
    """Seconds for work to go on; then it is a failure of the run."""

    def recovered(self, replica: Replica, died: float, before: Places) -> float | None:
        """Seconds from a death until the next process of the replica has committed progress."""
        works = self.progress.wait(lambda: self.progress.new_owner_works(replica.service, before), self.patience)
        if works is None:
            self.account.failures.append(f"{replica.name} did not work again within {self.patience:.0f} s of a kill")
            return None
        for one in replica.milestones():
            if one.pid == replica.pid and one.what in STAGES:
                self.account.stages.setdefault(one.what, []).append(one.at - died)
                self.account.work.setdefault(one.what, []).append(one.cpu)
        return works - died

    def goes_on(self, leave_out: Collection[Replica] = ()) -> float | None:
        """Seconds until every service has made progress from now on."""
        began = time.monotonic()
        missing: dict[str, int | None] = dict.fromkeys(self.system.urls)

        def all_moved() -> bool:
            self.system.start_what_ended(leave_out)
            for service, seen in list(missing.items()):
                total = self.progress.total(service)
                if seen is None:
                    missing[service] = total
                elif total > seen:
                    del missing[service]
            return not missing

        moved = self.progress.wait(all_moved, self.patience)
        if moved is None:
            self.account.failures.append(f"no progress for {self.patience:.0f} s: {', '.join(missing)}")
            return None
        return moved - began


Fault: TypeAlias = Callable[[Scene], Happened]


# ---- deaths


def killed_at(point: str) -> Fault:
    """SIGKILL at a named point, of a process that comes there."""

    def fault(scene: Scene) -> Happened:
        replica = scene.random.choice(_who_comes_to(point, scene.system))
        if point.endswith("taking over"):
            return _killed_while_starting(scene, replica, point)
        replica.order_death(point, scene.random.randint(1, 8))
        died = _await_death(scene, replica)
        return _restarted(scene, replica, f"SIGKILL {point}", died)

    return fault


def _who_comes_to(point: str, system: System) -> list[Replica]:
    """The web application is one process, and of two replicas one relay stands by."""
    if point.endswith("order taken"):
        return system.of("order")
    if point.endswith(("produce", "relay delete")):
        return [replica for replica in system.replicas if replica not in system.twins]
    return system.replicas


def _killed_while_starting(scene: Scene, replica: Replica, point: str) -> Happened:
    """It dies twice: somewhere, and when its successor is about to take its partitions over."""
    replica.kill()
    replica.start()
    replica.order_death(point, 1)
    died = _await_death(scene, replica)
    happened = _restarted(scene, replica, f"SIGKILL {point}", died)
    return replace(happened, died=happened.died + 1)


def _await_death(scene: Scene, replica: Replica) -> float | None:
    scene.progress.wait(lambda: not replica.alive, REACH_PATIENCE * scene.patience)
    return replica.died()


def _restarted(scene: Scene, replica: Replica, kind: str, died: float | None) -> Happened:
    if died is None or not replica.killed:
        replica.order_death("", 1)  # it is not to die of this any more
        scene.system.start_what_ended()
        return Happened(kind, replica.name, reached=False)
    before = _places(scene, replica.service)
    replica.start()
    return Happened(kind, replica.name, seconds=scene.recovered(replica, died, before), died=1)


def _places(scene: Scene, service: str) -> Places:
    found: list[Places] = []

    def look() -> bool:
        found.append(scene.progress.of(service))
        return True

    scene.progress.wait(look, scene.patience)
    return found[0]


def killed_at_random(scene: Scene) -> Happened:
    replica = scene.random.choice(scene.system.replicas)
    time.sleep(scene.random.uniform(0.0, 0.5))
    return _restarted(scene, replica, "SIGKILL at random", replica.kill())


def killed_again_and_again(scene: Scene) -> Happened:
    """Killed, and its successors while they start."""
    replica = scene.random.choice(scene.system.replicas)
    times = scene.random.randint(1, 2)
    replica.kill()
    for _ in range(times):
        replica.start()
        time.sleep(scene.random.uniform(0.1, 1.6))
        replica.kill()
    happened = _restarted(scene, replica, "SIGKILL again and again", time.monotonic())
    return replace(happened, died=happened.died + times)


def many_killed(scene: Scene) -> Happened:
    """Several at the same moment, both replicas of a service among them."""
    service = scene.random.choice(["orchestrator", "meter"])
    others = [replica for replica in scene.system.replicas if replica.service != service]
    victims = [*scene.system.of(service), *scene.random.sample(others, 2)]
    for replica in victims:
        replica.kill()
    reached = all(replica.killed for replica in victims)
    for replica in victims:
        replica.start()
    names = ", ".join(replica.name for replica in victims)
    return Happened("SIGKILL of several", names, reached, scene.goes_on(), died=len(victims))


def taken_over(scene: Scene) -> Happened:
    """A replica dies and stays dead until its twin has its partitions and works on them."""
    replica = scene.random.choice(scene.system.twins)
    before = _places(scene, replica.service)
    died = replica.kill()
    dead = replica.owners()
    lost = {at for at, place in before.items() if place.owner in dead}

    def survivor_works() -> bool:
        now = scene.progress.of(replica.service)
        moved = {at for at in lost if now[at].owner not in dead}
        return moved == lost and any(now[at].next > before[at].next for at in moved)

    works = scene.progress.wait(survivor_works, scene.patience) if lost else None
    if lost and works is None:
        scene.account.failures.append(f"nobody took over from {replica.name} within {scene.patience:.0f} s")
    replica.start()
    scene.goes_on()
    seconds = None if works is None else works - died
    return Happened("takeover by the other replica", replica.name, bool(lost), seconds, died=1)


# ---- frozen processes and lost servers


def frozen_service(scene: Scene) -> Happened:
    """SIGSTOP for longer than its session lasts; then it goes on in the belief that nothing has happened."""
    replica = scene.random.choice(scene.system.twins if scene.random.random() < 0.5 else scene.system.replicas)
    replica.freeze()
    time.sleep(scene.system.session_timeout + BEYOND_SECONDS + scene.random.uniform(0.0, 2.0))
    reached = replica.frozen
    replica.thaw()
    return Happened("service frozen beyond its session", replica.name, reached, scene.goes_on())


def server_down(kind: str, how: str) -> Fault:
    """Kafka or PostgreSQL stopped or killed, and started again after a while."""

    def fault(scene: Scene) -> Happened:
        server = scene.system.kafka if kind == "Kafka" else scene.system.postgres
        done = _taken_down(server, how)
        time.sleep(scene.random.uniform(0.5, 4.0))
        reached = done and answer(server.port, QUESTIONS[kind]) is Answer.REFUSED
        server.start()
        return Happened(f"{kind} {how} and restarted", "", reached, scene.goes_on())

    return fault


def _taken_down(server: KafkaServer | PostgresServer, how: str) -> bool:
    """False if it did not stop in good order, in time: then it was killed."""
    try:
        server.kill() if how == "killed" else server.stop()
    except ServerError:
        return False
    return True


def server_frozen(kind: str) -> Fault:
    """SIGSTOP: connections stay, and nobody answers."""

    def fault(scene: Scene) -> Happened:
        server = scene.system.kafka if kind == "Kafka" else scene.system.postgres
        server.pause()
        time.sleep(scene.random.choice([2.0, scene.system.session_timeout + BEYOND_SECONDS]))
        reached = answer(server.port, QUESTIONS[kind]) is Answer.NONE
        server.resume()
        return Happened(f"{kind} frozen", "", reached, scene.goes_on())

    return fault


# ---- the network


def network(kind: str, how: str) -> Fault:
    """The way of one service to a server is cut, or silent."""

    def fault(scene: Scene) -> Happened:
        victims = _victims(scene)
        proxies = [replica.kafka if kind == "Kafka" else replica.postgres for replica in victims]
        reached = _broken(proxies, how, scene.random.choice([1.5, 4.0, scene.system.session_timeout + BEYOND_SECONDS]))
        names = ", ".join(replica.name for replica in victims)
        return Happened(f"network to {kind} {how}", names, reached, scene.goes_on())

    return fault


def _victims(scene: Scene) -> list[Replica]:
    """One replica, or a whole service."""
    replica = scene.random.choice(scene.system.replicas)
    return scene.system.of(replica.service) if scene.random.random() < 0.5 else [replica]


def _broken(proxies: list[Proxy], how: str, seconds: float) -> bool:
    refused = sum(proxy.refused for proxy in proxies)
    for proxy in proxies:
        if how == "cut":
            proxy.cut()
        else:
            proxy.silence()
    time.sleep(seconds)
    reached = (
        sum(proxy.refused for proxy in proxies) > refused if how == "cut" else any(proxy.held for proxy in proxies)
    )
    for proxy in proxies:
        proxy.restore()
    return reached


DECK: dict[str, Fault] = {
    **{f"SIGKILL {point}": killed_at(point) for point in POINTS},
    **{f"SIGKILL at random {n}": killed_at_random for n in range(1, 9)},
    "SIGKILL again and again": killed_again_and_again,
    "SIGKILL of several": many_killed,
    "takeover 1": taken_over,
    "takeover 2": taken_over,
    "service frozen 1": frozen_service,
    "service frozen 2": frozen_service,
    **{f"{kind} {how}": server_down(kind, how) for kind in ("Kafka", "PostgreSQL") for how in ("stopped", "killed")},
    **{f"{kind} frozen": server_frozen(kind) for kind in ("Kafka", "PostgreSQL")},
    **{f"network to {kind} {how}": network(kind, how) for kind in ("Kafka", "PostgreSQL") for how in ("cut", "silent")},
}
"""A round: each of these once, in an order that the seed decides."""
