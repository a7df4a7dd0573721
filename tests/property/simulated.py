"""Sagas of other shapes than the order saga, for the simulator."""

from datetime import timedelta
from typing import Any

from kafkasaga import Each, Ends, LocalStep, Message, Saga, SagaState, Step, WaitFor, parallel, reply
from kafkasaga.saga.policy import exponential


class TripMessage(Message, key="trip_id"):
    trip_id: str


class TripWanted(TripMessage, topic="trip.wanted"): ...


class TripBooked(TripMessage, topic="trip.booked"): ...


class TripOff(TripMessage, topic="trip.off"):
    reason: str


class Flight(TripMessage, topic="flight.book"): ...


class FlightBooked(TripMessage, topic="flight.booked"): ...


class FlightRefused(TripMessage, topic="flight.refused"):
    reason: str


class CancelFlight(TripMessage, topic="flight.cancel"): ...


class FlightCancelled(TripMessage, topic="flight.cancelled"): ...


class Hotel(TripMessage, topic="hotel.book"): ...


class HotelBooked(TripMessage, topic="hotel.booked"): ...


class HotelRefused(TripMessage, topic="hotel.refused"):
    reason: str


class CancelHotel(TripMessage, topic="hotel.cancel"): ...


class HotelCancelled(TripMessage, topic="hotel.cancelled"): ...


class Charge(TripMessage, topic="card.charge"): ...


class Charged(TripMessage, topic="card.charged"): ...


class Declined(TripMessage, topic="card.declined"):
    reason: str


class Ticket(TripMessage, topic="ticket.issue"): ...


class Issued(TripMessage, topic="ticket.issued"): ...


class Trip(SagaState):
    trip_id: str


class BookTrip(Saga[Trip], name="book-trip", version=1, starts_on=TripWanted):
    """Two bookings at once, a pivot, and a step that cannot fail."""

    flight = Step[Trip](
        command=lambda s: Flight(trip_id=s.trip_id),
        succeeds_on=FlightBooked,
        fails_on=FlightRefused,
        compensation=lambda s: CancelFlight(trip_id=s.trip_id),
        compensated_on=FlightCancelled,
        deadline=timedelta(seconds=20),
        retry=exponential(attempts=3),
    )
    hotel = Step[Trip](
        command=lambda s: Hotel(trip_id=s.trip_id),
        succeeds_on=HotelBooked,
        fails_on=HotelRefused,
        compensation=lambda s: CancelHotel(trip_id=s.trip_id),
        compensated_on=HotelCancelled,
        deadline=timedelta(seconds=5),
    )
    charge = Step[Trip](
        command=lambda s: Charge(trip_id=s.trip_id),
        succeeds_on=Charged,
        fails_on=Declined,
        kind="pivot",
        deadline=timedelta(seconds=30),
    )
    ticket = Step[Trip](command=lambda s: Ticket(trip_id=s.trip_id), succeeds_on=Issued, kind="retriable")
    flow = parallel(flight, hotel) >> charge >> ticket
    ends = Ends[Trip](
        completed=lambda s: TripBooked(trip_id=s.trip_id),
        cancelled=lambda s, why: TripOff(trip_id=s.trip_id, reason=why.reason),
    )


class ParcelMessage(Message, key="order_id"):
    order_id: int


class Packed(ParcelMessage, topic="order.packed"):
    parcels: tuple[str, ...]


class Approved(ParcelMessage, topic="order.approved"): ...


class Forbidden(ParcelMessage, topic="order.forbidden"):
    reason: str


class Ship(ParcelMessage, topic="parcel.ship"):
    parcel: str


class Shipped(ParcelMessage, topic="parcel.shipped"):
    parcel: str


class Lost(ParcelMessage, topic="parcel.lost"):
    parcel: str
    reason: str


class Recall(ParcelMessage, topic="parcel.recall"):
    parcel: str


class Recalled(ParcelMessage, topic="parcel.recalled"):
    parcel: str


class Invoice(ParcelMessage, topic="invoice.write"): ...


class Invoiced(ParcelMessage, topic="invoice.written"): ...


class Void(ParcelMessage, topic="invoice.void"): ...


class Voided(ParcelMessage, topic="invoice.voided"): ...


class Parcels(SagaState):
    order_id: int
    parcels: tuple[str, ...]
    shipped: tuple[str, ...] = ()
    noted: int = 0


def _shipped(each: Each[Parcels, str], answer: Shipped) -> None:
    each.saga.shipped = (*each.saga.shipped, answer.parcel)


def _note(state: Parcels, session: Any) -> None:
    state.noted += 1


class ShipOrder(Saga[Parcels], name="ship-order", version=1, starts_on=Packed):
    """Waits for an approval, notes it here, ships every parcel on one lane of order, then writes the invoice."""

    approval = WaitFor[Parcels](Approved, fails_on=Forbidden, deadline=timedelta(minutes=1))
    note = LocalStep[Parcels](_note, compensation=_note)
    ship = Step[Each[Parcels, str]](
        command=lambda e: Ship(order_id=e.saga.order_id, parcel=e.item),
        succeeds_on=reply(Shipped, _shipped),
        fails_on=Lost,
        compensation=lambda e: Recall(order_id=e.saga.order_id, parcel=e.item),
        compensated_on=Recalled,
        deadline=timedelta(seconds=10),
        retry=exponential(attempts=2),
    )
    invoice = Step[Parcels](
        command=lambda s: Invoice(order_id=s.order_id),
        succeeds_on=Invoiced,
        compensation=lambda s: Void(order_id=s.order_id),
        compensated_on=Voided,
        deadline=timedelta(seconds=10),
    )
    flow = approval >> note >> ship.for_each(lambda s: s.parcels) >> invoice


class RentalMessage(Message, key="rental_id"):
    rental_id: int


class RentalWanted(RentalMessage, topic="rental.wanted"):
    cars: tuple[str, ...]


class Rent(RentalMessage, topic="rental.car", type="rental.car.rent"):
    car: str


class Return(RentalMessage, topic="rental.car", type="rental.car.return"):
    car: str


class Rented(RentalMessage, topic="rental.rented"):
    car: str


class NoneLeft(RentalMessage, topic="rental.none-left"):
    car: str
    reason: str


class Returned(RentalMessage, topic="rental.returned"):
    car: str


class Insure(RentalMessage, topic="rental.insure"): ...


class Insured(RentalMessage, topic="rental.insured"): ...


class Uninsurable(RentalMessage, topic="rental.uninsurable"):
    reason: str


class Rental(SagaState):
    rental_id: int
    cars: tuple[str, ...]


class RentCars(Saga[Rental], name="rent-cars", version=1, starts_on=RentalWanted):
    """Commands and their compensations share a topic, and all of an instance one lane: what is parked is in the way."""

    insure = Step[Rental](
        command=lambda s: Insure(rental_id=s.rental_id),
        succeeds_on=Insured,
        fails_on=Uninsurable,
        kind="read-only",
        deadline=timedelta(seconds=3),
    )
    rent = Step[Each[Rental, str]](
        command=lambda e: Rent(rental_id=e.saga.rental_id, car=e.item),
        succeeds_on=Rented,
        fails_on=NoneLeft,
        compensation=lambda e: Return(rental_id=e.saga.rental_id, car=e.item),
        compensated_on=Returned,
        deadline=timedelta(seconds=4),
        retry=exponential(attempts=2),
        compensation_retry=exponential(attempts=8),
    )
    flow = parallel(insure, rent.for_each(lambda s: s.cars))


class MoveMessage(Message, key="move_id"):
    move_id: int


class MoveWanted(MoveMessage, topic="move.wanted"): ...


class Sign(MoveMessage, topic="lease.sign"): ...


class Signed(MoveMessage, topic="lease.signed"): ...


class Connect(MoveMessage, topic="power.connect"): ...


class Connected(MoveMessage, topic="power.connected"): ...


class NoTechnician(MoveMessage, topic="power.no-technician"):
    reason: str


class Move(SagaState):
    move_id: int


class MoveHouse(Saga[Move], name="move-house", version=1, starts_on=MoveWanted):
    """Behind the point of no return, a step that may be refused is asked again, each time as a new generation."""

    sign = Step[Move](command=lambda s: Sign(move_id=s.move_id), succeeds_on=Signed, kind="pivot")
    connect = Step[Move](
        command=lambda s: Connect(move_id=s.move_id),
        succeeds_on=Connected,
        fails_on=NoTechnician,
        kind="retriable",
        deadline=timedelta(seconds=0.5),
        retry=exponential(attempts=9, first=timedelta(seconds=0.1), longest=timedelta(seconds=1)),
    )
    flow = sign >> connect
