"""Entries of the outcome log as bytes, the same for every store."""

from __future__ import annotations

import msgspec

from router.types import DecisionRecord, Feedback, LogEntry, SettlementRecord

KINDS: dict[type[LogEntry], str] = {DecisionRecord: "d", SettlementRecord: "s", Feedback: "f"}

encode = msgspec.msgpack.Encoder().encode
_decoders = {kind: msgspec.msgpack.Decoder(cls) for cls, kind in KINDS.items()}


def decode(kind: str, body: bytes) -> LogEntry:
    """The entry of these bytes. `kind` is one of the values of KINDS."""
    entry: LogEntry = _decoders[kind].decode(body)
    return entry


def contradicts(known: Feedback, given: Feedback) -> bool:
    """Whether a repeat says something else about the same answer."""
    return (known.score, known.comment) != (given.score, given.comment)
