"""Messages TRAVEL: what they are, what they are called on the wire, and how they become bytes and headers."""

from kafkasaga.messages.codec import Codec, JsonCodec
from kafkasaga.messages.envelope import (
    UNREADABLE,
    Attributes,
    Envelope,
    Mark,
    Operation,
    Record,
    SagaContext,
    fault_of_headers,
    read_attributes,
    time_text,
    write_headers,
)
from kafkasaga.messages.ids import NAMESPACE, derived, id_text, read_id, to_id
from kafkasaga.messages.message import Contract, Message, contract_of, key_of, text_of
from kafkasaga.messages.registry import Registry
from kafkasaga.messages.state import SagaState
from kafkasaga.messages.text import from_text, to_text, writer_of

__all__ = [
    "NAMESPACE",
    "UNREADABLE",
    "Attributes",
    "Codec",
    "Contract",
    "Envelope",
    "JsonCodec",
    "Mark",
    "Message",
    "Operation",
    "Record",
    "Registry",
    "SagaContext",
    "SagaState",
    "contract_of",
    "derived",
    "fault_of_headers",
    "from_text",
    "id_text",
    "key_of",
    "read_attributes",
    "read_id",
    "text_of",
    "time_text",
    "to_id",
    "to_text",
    "write_headers",
    "writer_of",
]
