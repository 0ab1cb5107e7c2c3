"""Which conversation a request belongs to: as its client says, or as the beginning of its messages says. Pure."""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import Any

import msgspec

from router.gateway.types import Call
from router.learning.prompt_caches import SESSION
from router.learning.similar_answers import ASKS, GROUP, LIKENESS
from router.learning.stored_answers import ANSWER, MADE_BY

_BEGINNINGS = ("messages", "input", "prompt")  # the first that a request has
_USER = re.compile(rb'"role"\s*:\s*"user"')
_items = msgspec.json.Decoder(list[msgspec.Raw]).decode  # long conversations are cut into messages, and no further
_SYSTEM = ("system", "instructions", "tools")


def session_of(tenant: str, call: Call) -> str | None:
    """A digest that all turns of a conversation share; None where nothing tells."""
    named = call.session or _text(call, "prompt_cache_key") or _user(call)
    begun = named or _beginning(call)
    return None if begun is None else blake2b(f"{tenant}\0{begun}".encode(), digest_size=8).hexdigest()


def marks(session: str | None, call: Call) -> dict[str, str]:
    """What those who follow the log must know of a decision beside its context."""
    found = {SESSION: session, ANSWER: call.answer, MADE_BY: call.made_by}
    if call.likeness is not None:
        found[GROUP], found[ASKS] = call.likeness.group, call.likeness.asks
        found[LIKENESS] = f"{call.likeness.sure:.6f}" if call.likeness.sure else None
    return {key: value for key, value in found.items() if value}


def _decode(raw: msgspec.Raw) -> Any:
    """None where a decoder cannot follow: such a request belongs to no conversation that is known."""
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _text(call: Call, field: str) -> str | None:
    found: Any = _decode(call.fields[field]) if field in call.fields else None
    return found if isinstance(found, str) and found else None


def _user(call: Call) -> str | None:
    metadata: Any = _decode(call.fields["metadata"]) if "metadata" in call.fields else None
    found = metadata.get("user_id") if isinstance(metadata, dict) else None
    return found if isinstance(found, str) and found else None


def _beginning(call: Call) -> str | None:
    """System text, tools, and all up to the first thing the user said, as they came: what later turns repeat."""
    field = next((name for name in _BEGINNINGS if name in call.fields), None)
    if field is None:
        return None
    try:
        first = _up_to_the_user(_items(call.fields[field]))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        first = [call.fields[field]]  # one text, or what no decoder follows
    system = [call.fields[name] for name in _SYSTEM if name in call.fields]
    return blake2b(b"\0".join([bytes(each) for each in (*system, *first)]), digest_size=16).hexdigest()


def _up_to_the_user(items: list[msgspec.Raw]) -> list[msgspec.Raw]:
    users = (place for place, each in enumerate(items) if _USER.search(each) is not None)
    return items[: next(users, len(items) - 1) + 1]
