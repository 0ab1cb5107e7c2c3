"""How much of what happened a store keeps. The oldest goes first; money is not among it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from router.errors import SettingsError


@dataclass(frozen=True, slots=True)
class ConversationBounds:
    """Answers kept for clients that go on from them."""

    each: int = 1_000  # of a tenant, at most
    ms: int = 30 * 86_400_000  # for how long


@dataclass(frozen=True, slots=True)
class Retention:
    """Entries kept, at least; a few hundred more may be there."""

    log_entries: int = 1_000_000  # of the outcome log: two a request, and one for each judgement
    audit_entries: int = 100_000
    conversations: ConversationBounds = ConversationBounds()


SPEND_DAYS = 400  # of spend lines
TRIMMED = 512  # entries removed at once, at most: more would keep requests waiting


def retention_of(query: Mapping[str, str]) -> Retention:
    """What the query of a store's address asks for. Raises: SettingsError."""
    usual = Retention()
    each = _entries(query, "conversations", usual.conversations.each)
    return Retention(
        _entries(query, "log_entries", usual.log_entries),
        _entries(query, "audit_entries", usual.audit_entries),
        ConversationBounds(each, _entries(query, "conversation_ms", usual.conversations.ms)),
    )


def _entries(query: Mapping[str, str], name: str, usual: int) -> int:
    text = query.get(name, str(usual))
    if not text.isdecimal() or int(text) < 1:
        raise SettingsError(f"{name} is {text!r}; it must be a number of entries, 1 or more", param=f"store.{name}")
    return int(text)
