"""A message to relay, and an outbox to put it into."""

from kafkasaga import Message, Outbox, Service

TOPIC = "bench.relay"


class Placed(Message, topic=TOPIC, key="account"):
    account: str
    number: int
    """Counts the messages of its account."""
    order: int
    note: str


outbox = Outbox(source="bench")
service = Service("bench", outbox=outbox)
