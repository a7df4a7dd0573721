"""The Customer service: it knows who may order."""

from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from kafkasaga import Service

from .contracts import CustomerRejected, CustomerValidated, ValidateCustomer

customer = Service("customer")


class Base(DeclarativeBase): ...


class Customer(Base):
    __tablename__ = "customer"

    id: Mapped[str] = mapped_column(primary_key=True)


@customer.handler
def validate(command: ValidateCustomer, session: Session) -> CustomerValidated | CustomerRejected:
    if session.get(Customer, command.customer_id) is None:
        return CustomerRejected(order_id=command.order_id, reason=f"unknown customer: {command.customer_id}")
    return CustomerValidated(order_id=command.order_id)
