"""Entries of the outcome log as bytes, the same for every store.

Bytes that are no entry are passed over, and the log of the process says so.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import msgspec

from policies.records import packed, unpacked
from router.errors import Conflict, NotFound
from router.types import DecisionRecord, Feedback, LogEntry, Notice, SettlementRecord

LOG = logging.getLogger("pointsman.log")
KINDS: dict[type[LogEntry], str] = {DecisionRecord: "d", SettlementRecord: "s", Feedback: "f", Notice: "n"}

MOST_JUDGEMENTS = 16  # of one answer: what is replaced stays in the log

_encode = msgspec.msgpack.Encoder().encode
_decoders: dict[str, Callable[[bytes], LogEntry]] = {
    "d": unpacked,
    "s": msgspec.msgpack.Decoder(SettlementRecord).decode,
    "f": msgspec.msgpack.Decoder(Feedback).decode,
    "n": msgspec.msgpack.Decoder(Notice).decode,
}


def encode(entry: LogEntry) -> bytes:
    """The bytes of an entry."""
    return packed(entry) if isinstance(entry, DecisionRecord) else _encode(entry)


def decode(kind: str, body: bytes) -> LogEntry:
    """The entry of these bytes. Raises: ValueError where they are none."""
    known = _decoders.get(kind)
    if known is None:
        raise ValueError(f"there is no kind {kind!r} of entries")
    return known(body)


def readable(position: str, kind: str, body: bytes) -> LogEntry | None:
    """The entry at a position of the log; None where it cannot be read, which is said and costs this entry alone."""
    try:
        return decode(kind, body)
    except Exception as error:  # it may hold anything, and nobody could start any more
        LOG.error("entry %s of the outcome log cannot be read and is passed over: %r", position, error)
        return None


def scoped_response(tenant: str, response_id: str) -> str:
    """A response id as stores look it up: engines count them, and clients may choose them, so each tenant has its own.

    No name of a tenant holds the separator.
    """
    return f"{tenant}\x1f{response_id}"


def response_of(record: LogEntry) -> str | None:
    """The response id of a settlement, scoped; None where there is none."""
    if not isinstance(record, SettlementRecord) or record.response_id is None:
        return None
    return scoped_response(record.tenant, record.response_id)


def unknown(some_id: str) -> NotFound:
    """What is said of an id that is nobody's, and of another tenant's alike."""
    return NotFound(f"No decision or response {some_id!r} is recorded.", param="decision_id")


def needs_replace(given: Feedback) -> Conflict:
    """What is said where another judgement is recorded."""
    return Conflict(f"{given.decision_id} was judged otherwise already; send replace: true to change that.")


def judged_by_another(given: Feedback) -> Conflict:
    """What is said where another key's judgement is to be replaced."""
    return Conflict(f"{given.decision_id} was judged by another key; only that one may replace what it said.")


def judged_too_often(given: Feedback) -> Conflict:
    """What is said where an answer has been judged again and again."""
    return Conflict(f"{given.decision_id} was judged {MOST_JUDGEMENTS} times, which is the limit.")


def may_replace(known: Feedback, given: Feedback) -> bool:
    """Whether it comes from the key that gave the known one, or from an admin."""
    return given.by_admin or known.key_id in ("", given.key_id)


def contradicts(known: Feedback, given: Feedback) -> bool:
    """Whether a repeat says something else about the same answer."""
    return (known.score, known.comment) != (given.score, given.comment)
