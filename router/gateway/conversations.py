"""Which conversation a request belongs to: as its client says, or as the beginning of its messages says. Pure."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

import msgspec

from router.gateway.types import Call

_BEGINNINGS = ("messages", "input", "prompt")  # the first that a request has
_SYSTEM = ("system", "instructions", "tools")


def session_of(tenant: str, call: Call) -> str | None:
    """A digest that all turns of a conversation share; None where nothing tells."""
    named = call.session or _text(call, "prompt_cache_key") or _user(call)
    begun = named or _beginning(call)
    return None if begun is None else blake2b(f"{tenant}\0{begun}".encode(), digest_size=8).hexdigest()


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
    """System text, tools, and all up to the first thing the user said: what later turns repeat."""
    field = next((name for name in _BEGINNINGS if name in call.fields), None)
    if field is None:
        return None
    said: Any = _decode(call.fields[field])
    if said is None:
        return None
    if isinstance(said, list):
        users = (i for i, each in enumerate(said) if isinstance(each, dict) and each.get("role") == "user")
        said = said[: next(users, len(said) - 1) + 1]
    system = [bytes(call.fields[name]) for name in _SYSTEM if name in call.fields]
    return blake2b(msgspec.json.encode(said) + b"\0".join(system), digest_size=16).hexdigest()
