"""Sagas with what others do not have, for the simulator: it must neither give a false alarm nor miss a fault."""

from datetime import timedelta

from kafkasaga import Each, Message, Saga, SagaState, Step, WaitFor, parallel
from kafkasaga.saga.policy import exponential

SECOND = timedelta(seconds=1)


class CaseMessage(Message, key="case_id"):
    case_id: int


class Opened(CaseMessage, topic="case.opened"):
    papers: tuple[str, ...]


class Score(CaseMessage, topic="case.score"): ...


class Scored(CaseMessage, topic="case.scored"): ...


class Unscorable(CaseMessage, topic="case.unscorable"): ...


class Scan(CaseMessage, topic="paper.scan"):
    paper: str


class Scanned(CaseMessage, topic="paper.scanned"):
    paper: str


class Shred(CaseMessage, topic="paper.shred"):
    paper: str


class Shredded(CaseMessage, topic="paper.shredded"):
    paper: str


class Signed(CaseMessage, topic="case.signed"): ...


class Withdrawn(CaseMessage, topic="case.withdrawn"):
    reason: str


class Nudged(CaseMessage, topic="case.nudged"): ...


class PayOut(CaseMessage, topic="case.pay-out"): ...


class PaidOut(CaseMessage, topic="case.paid-out"): ...


class Archive(CaseMessage, topic="case.archive"): ...


class Archived(CaseMessage, topic="case.archived"): ...


class Full(CaseMessage, topic="case.archive-full"): ...


class Case(SagaState):
    case_id: int
    papers: tuple[str, ...]


class SettleClaim(Saga[Case], name="settle-claim", version=3, starts_on=Opened):
    """Steps without compensation beside a fan-out, early events, a pivot that keeps silent, tries that end."""

    score = Step[Case](
        command=lambda s: Score(case_id=s.case_id),
        succeeds_on=Scored,
        fails_on=Unscorable,
        kind="read-only",
        deadline=SECOND,
        retry=exponential(attempts=1),
    )
    scan = Step[Each[Case, str]](
        command=lambda e: Scan(case_id=e.saga.case_id, paper=e.item),
        succeeds_on=Scanned,
        compensation=lambda e: Shred(case_id=e.saga.case_id, paper=e.item),
        compensated_on=Shredded,
        deadline=3 * SECOND,
        compensation_retry=exponential(attempts=2, first=SECOND / 4),
    )
    sign = WaitFor[Case](Signed, fails_on=Withdrawn, deadline=20 * SECOND)
    nudge = WaitFor[Case](Nudged, deadline=2 * SECOND, at_deadline="continue")
    pay = Step[Case](
        command=lambda s: PayOut(case_id=s.case_id),
        succeeds_on=PaidOut,
        kind="pivot",
        deadline=SECOND,
        retry=exponential(attempts=2, first=SECOND / 4),
    )
    archive = Step[Case](
        command=lambda s: Archive(case_id=s.case_id),
        succeeds_on=Archived,
        fails_on=Full,
        kind="retriable",
        deadline=SECOND,
        retry=exponential(attempts=2, first=SECOND / 4),
    )
    flow = parallel(score, scan.for_each(lambda s: s.papers)) >> parallel(sign, nudge) >> pay >> archive


class Waiting(SagaState):
    case_id: int


class AwaitSignature(Saga[Waiting], name="await-signature", version=1):
    """It starts from a state and sends nothing at all."""

    sign = WaitFor[Waiting](Signed, deadline=5 * SECOND)
    flow = sign
