"""Records as nobody should write them: strategies for Hypothesis, and a table of the worst."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from uuid import UUID

from hypothesis import strategies as st

from kafkasaga.messages import UNREADABLE

SAGA = str(UUID(int=7))
TOPICS = ("begun", "reserve", "unreserve", "reserved", "paid")
NAMES = (
    "ce_id",
    "ce_source",
    "ce_type",
    "ce_sagaid",
    "ce_saganame",
    "ce_sagastep",
    "ce_sagageneration",
    "ce_sagaoperation",
    "ce_sagacommandid",
    "ce_sagafailures",
    "ce_sagamark",
    "content-type",
    "traceparent",
    UNREADABLE,
)
FITTING = {
    "ce_sagaid": SAGA,
    "ce_saganame": "buy",
    "ce_sagastep": "reserve",
    "ce_sagageneration": "0",
    "ce_sagaoperation": "action",
}


@dataclass(frozen=True)
class Hostile:
    """What somebody puts into a topic."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: dict[str, bytes] = field(default_factory=dict[str, bytes])


def saying(topic: str, body: str | bytes, key: bytes | None = b"k", /, **headers: str | bytes) -> Hostile:
    """A record with headers by their names in Python."""
    bytes_of = {name: text.encode() if isinstance(text, str) else text for name, text in headers.items()}
    return Hostile(topic, key, body.encode() if isinstance(body, str) else body, bytes_of)


NOISE = random.Random(4).randbytes(500_000).hex()
"""A long text that no index compresses until it fits."""


def nested(depth: int) -> str:
    return '{"id": "x", "more": ' + "[" * depth + "]" * depth + "}"


WORST = {
    "a NUL in a body": saying("reserve", '{"id": "a\\u0000b"}'),
    "a NUL in the key of a saga": saying("begun", '{"id": "a\\u0000b"}'),
    "a NUL in a reply": saying("reserved", '{"id": "a\\u0000b"}'),
    "a NUL in a record's key": saying("reserve", '{"id": "x"}', b"a\0b"),
    "NULs in headers": saying("reserve", '{"id": "x"}', **{n: b"\0a\0" for n in NAMES if n != "ce_type"}),
    "a NUL in a type": saying("reserve", '{"id": "x"}', ce_type="res\0erve"),
    "a NUL in a step": saying("reserve", '{"id": "x"}', **{**FITTING, "ce_sagastep": "a\0b"}),
    "half a surrogate in a body": saying("reserve", '{"id": "\\ud800"}'),
    "half a surrogate, encoded": saying("reserve", b'{"id": "\xed\xa0\x80"}'),
    "half a surrogate in quoted headers": saying(
        "reserve", '{"id": "x"}', **{**FITTING, "ce_sagastep": '"\\ud800"', "ce_source": '"\\udfff"'}
    ),
    "no UTF-8 anywhere": Hostile("reserve", b"\xff\xfe", b"\xff\xfe", dict.fromkeys(NAMES, b"\xff\xfe")),
    "a number beyond all columns": saying("reserve", json.dumps({"id": "x", "n": 10**400})),
    "a generation beyond all columns": saying("reserve", '{"id": "x"}', **{**FITTING, "ce_sagageneration": "9" * 40}),
    "the largest generation": saying("reserve", '{"id": "x"}', **{**FITTING, "ce_sagageneration": "9" * 9}),
    "digits of another script": saying("reserve", '{"id": "x"}', **{**FITTING, "ce_sagageneration": "\u0663"}),
    "a source of sixty kilobytes": saying("reserve", '{"id": "x"}', ce_source=NOISE[:60_000]),
    "a step of sixty kilobytes": saying("reserve", '{"id": "x"}', **{**FITTING, "ce_sagastep": NOISE[:60_000]}),
    "a type of sixty kilobytes": saying("reserve", '{"id": "x"}', ce_type="t" * 60_000),
    "more headers than sane": Hostile("reserve", b"k", b'{"id":"x"}', {f"h{n}": b"v" for n in range(5_000)}),
    "headers larger than sane": Hostile("reserve", b"k", b'{"id":"x"}', {"h": b"v" * 900_000}),
    "headers that cannot be read": Hostile("reserve", b"k", b'{"id":"x"}', {UNREADABLE: b"\xff no text"}),
    "a body larger than allowed": saying("reserve", json.dumps({"id": "x" * 1_000_001})),
    "nested to the parser's limit": saying("reserve", nested(195)),
    "nested beyond it": saying("reserve", nested(100_000)),
    "objects in objects": saying("begun", '{"id":' * 90 + "1" + "}" * 90),
    "a key of a megabyte": saying("reserve", '{"id": "raise NUL"}', NOISE.encode()),
    "an empty key": saying("reserve", '{"id": "x"}', b""),
    "no key": saying("reserve", '{"id": "x"}', None),
    "no body": Hostile("reserve", b"k", None),
    "a mark without a body": Hostile("reserved", b"k", None, {"ce_sagamark": b"empty"}),
    "a mark for a handler": Hostile(
        "reserve", b"k", None, {n: v.encode() for n, v in FITTING.items()} | {"ce_sagamark": b"x"}
    ),
    "what raises in a validator": saying("reserve", '{"id": "raise KeyError"}'),
    "what raises with half a surrogate": saying("reserve", '{"id": "raise surrogate"}'),
    "what raises with a NUL": saying("reserve", '{"id": "raise NUL"}'),
    "what raises a megabyte": saying("reserve", '{"id": "raise megabyte"}'),
    "what raises without words": saying("reserve", '{"id": "raise wordless"}'),
}

_bytes = st.binary(max_size=40) | st.sampled_from([b"\0", b"\xff", b"\xed\xa0\x80", b'"\\ud800"', b"9" * 30, b'"'])
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "a", "\0"]), inner, max_size=3),
    max_leaves=6,
)
_bodies = (
    st.none()
    | st.binary(max_size=60)
    | _json.map(lambda value: json.dumps(value).encode())
    | st.text(max_size=8).map(lambda text: json.dumps({"id": text}).encode())
)
_fitting = st.sampled_from(sorted(FITTING)).flatmap(
    lambda name: st.tuples(st.just(name), st.just(FITTING[name].encode()))
)
_headers = st.lists(st.tuples(st.sampled_from(NAMES) | st.text(max_size=6), _bytes) | _fitting, max_size=10).map(dict)
_whole = _headers.map(lambda headers: {name: text.encode() for name, text in FITTING.items()} | headers)


def records() -> st.SearchStrategy[Hostile]:
    """Anything; some of it nearly right."""
    keys = st.none() | st.binary(max_size=8) | st.sampled_from([b"k", b"\0", b"x" * 2_000])
    return st.builds(Hostile, st.sampled_from(TOPICS), keys, _bodies, _headers | _whole)
