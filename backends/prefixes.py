"""By what a request begins: what an engine may have in its prefix cache of others that begin alike. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from hashlib import blake2b
from typing import NamedTuple

import msgspec

LEAST_BYTES = 1_024  # of a beginning, below which a cache saves less than an even load
_BEFORE = ("tools", "system", "instructions")
_TALK = ("messages", "input", "prompt")  # the first that a request has
_USER = re.compile(rb'"role"\s*:\s*"user"')
_items = msgspec.json.Decoder(list[msgspec.Raw]).decode


class Prefix(NamedTuple):
    """Digests of a beginning."""

    shared: bytes  # of what precedes the first thing a user says; empty where that is short
    begun: bytes  # of all up to that: the same for every turn of a conversation


def prefix_of(fields: Mapping[str, msgspec.Raw]) -> Prefix | None:
    """Of a request's fields; None where it begins with too little."""
    field = next((name for name in _TALK if name in fields), None)
    if field is None:
        return None
    before = b"\0".join([bytes(fields[name]) for name in _BEFORE if name in fields])
    if len(before) + len(memoryview(fields[field])) < LEAST_BYTES:
        return None
    lead, first = _beginning(fields[field])
    lead = before + lead
    if len(lead) + len(first) < LEAST_BYTES:
        return None
    return Prefix(_digest(lead) if len(lead) >= LEAST_BYTES else b"", _digest(lead, first))


def _beginning(talk: msgspec.Raw) -> tuple[bytes, bytes]:
    """(what precedes the first thing a user says, that)."""
    try:
        items = _items(talk)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):  # one text, or what no decoder follows
        return b"", bytes(talk)[:LEAST_BYTES]
    place = next((at for at, item in enumerate(items) if _USER.search(item) is not None), len(items) - 1)
    return b"\0".join([bytes(item) for item in items[:place]]), b"".join(
        [bytes(each) for each in items[place : place + 1]]
    )


def _digest(*parts: bytes) -> bytes:
    return blake2b(b"\0".join(parts), digest_size=8).digest()
