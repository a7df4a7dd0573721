"""Sagas whose parallel branches are sequences, and whose lanes several sagas share."""

from datetime import timedelta

from kafkasaga import Each, Ends, Message, Saga, SagaState, Step, exponential, parallel, reply


class VisitMessage(Message, key="visit"):
    visit: int


class VisitWanted(VisitMessage, topic="visit.wanted"):
    scan: bool


class VisitPlanned(VisitMessage, topic="visit.planned"): ...


class VisitOff(VisitMessage, topic="visit.off"):
    reason: str


class Room(VisitMessage, topic="room", type="room.book"): ...


class RoomGot(VisitMessage, topic="room.got"):
    number: int


class RoomTaken(VisitMessage, topic="room.taken"):
    reason: str


class LeaveRoom(VisitMessage, topic="room", type="room.leave"):
    number: int


class RoomLeft(VisitMessage, topic="room.left"): ...


class Doctor(VisitMessage, topic="doctor.ask"): ...


class DoctorComes(VisitMessage, topic="doctor.comes"): ...


class DoctorBusy(VisitMessage, topic="doctor.busy"):
    reason: str


class DismissDoctor(VisitMessage, topic="doctor.dismiss"): ...


class DoctorDismissed(VisitMessage, topic="doctor.dismissed"): ...


class Scan(VisitMessage, topic="scan.book"): ...


class ScanBooked(VisitMessage, topic="scan.booked"): ...


class CancelScan(VisitMessage, topic="scan.cancel"): ...


class ScanCancelled(VisitMessage, topic="scan.cancelled"): ...


class AskInsurer(VisitMessage, topic="insurer.ask"): ...


class Covered(VisitMessage, topic="insurer.covers"): ...


class NotCovered(VisitMessage, topic="insurer.refuses"):
    reason: str


class Letter(VisitMessage, topic="letter.send"): ...


class LetterSent(VisitMessage, topic="letter.sent"): ...


class LetterLost(VisitMessage, topic="letter.lost"):
    reason: str


class Visit(SagaState):
    visit: int
    scan: bool = True
    number: int = 0


def _room(state: Visit, answer: RoomGot) -> None:
    state.number = answer.number


class PlanVisit(Saga[Visit], name="plan-visit", version=1, starts_on=VisitWanted):
    """A room beside a doctor and then, perhaps, a scan; a pivot; a letter that is written until it arrives."""

    room = Step[Visit](
        command=lambda s: Room(visit=s.visit),
        succeeds_on=reply(RoomGot, _room),
        fails_on=RoomTaken,
        compensation=lambda s: LeaveRoom(visit=s.visit, number=s.number),
        compensated_on=RoomLeft,
        deadline=timedelta(seconds=8),
        retry=exponential(attempts=2),
    )
    doctor = Step[Visit](
        command=lambda s: Doctor(visit=s.visit),
        succeeds_on=DoctorComes,
        fails_on=DoctorBusy,
        compensation=lambda s: DismissDoctor(visit=s.visit),
        compensated_on=DoctorDismissed,
        deadline=timedelta(seconds=5),
    )
    scan = Step[Visit](
        command=lambda s: Scan(visit=s.visit),
        succeeds_on=ScanBooked,
        compensation=lambda s: CancelScan(visit=s.visit),
        compensated_on=ScanCancelled,
        deadline=timedelta(seconds=6),
        retry=exponential(attempts=3),
    )
    insurer = Step[Visit](
        command=lambda s: AskInsurer(visit=s.visit),
        succeeds_on=Covered,
        fails_on=NotCovered,
        kind="pivot",
        deadline=timedelta(seconds=20),
    )
    letter = Step[Visit](
        command=lambda s: Letter(visit=s.visit),
        succeeds_on=LetterSent,
        fails_on=LetterLost,
        kind="retriable",
        deadline=timedelta(seconds=4),
    )
    flow = parallel(room, doctor >> scan.when(lambda s: s.scan)) >> insurer >> letter
    ends = Ends[Visit](
        completed=lambda s: VisitPlanned(visit=s.visit),
        cancelled=lambda s, why: VisitOff(visit=s.visit, reason=why.reason),
    )


class FestivalMessage(Message, key="festival"):
    festival: str


class Announced(FestivalMessage, topic="festival.announced"):
    bands: tuple[str, ...]


class BandMessage(Message, key="band"):
    festival: str
    band: str


class Hire(BandMessage, topic="band.hire"): ...


class Hired(BandMessage, topic="band.hired"): ...


class Busy(BandMessage, topic="band.busy"):
    reason: str


class Dismiss(BandMessage, topic="band.dismiss"): ...


class Dismissed(BandMessage, topic="band.dismissed"): ...


class Invite(BandMessage, topic="visa.ask"): ...


class Invited(BandMessage, topic="visa.given"): ...


class Uninvite(BandMessage, topic="visa.back"): ...


class Uninvited(BandMessage, topic="visa.gone"): ...


class Festival(SagaState):
    festival: str
    bands: tuple[str, ...]


class PlanFestival(Saga[Festival], name="plan-festival", version=1, starts_on=Announced):
    """Two steps for each band; a band's messages have its key, whichever festival hires it."""

    hire = Step[Each[Festival, str]](
        command=lambda e: Hire(festival=e.saga.festival, band=e.item),
        succeeds_on=Hired,
        fails_on=Busy,
        compensation=lambda e: Dismiss(festival=e.saga.festival, band=e.item),
        compensated_on=Dismissed,
        deadline=timedelta(seconds=7),
        retry=exponential(attempts=2),
    )
    visa = Step[Each[Festival, str]](
        command=lambda e: Invite(festival=e.saga.festival, band=e.item),
        succeeds_on=Invited,
        compensation=lambda e: Uninvite(festival=e.saga.festival, band=e.item),
        compensated_on=Uninvited,
        deadline=timedelta(seconds=9),
        compensation_retry=exponential(attempts=6),
    )
    flow = (hire >> visa).for_each(lambda s: s.bands)
