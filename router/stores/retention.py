"""How much of what happened a store keeps. The oldest goes first; money is not among it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from router.errors import SettingsError


@dataclass(frozen=True, slots=True)
class Retention:
    """Entries kept, at least; a few hundred more may be there."""

    log_entries: int = 1_000_000  # of the outcome log: two a request, and one for each judgement
    audit_entries: int = 100_000


SPEND_DAYS = 400  # of spend lines
TRIMMED = 512  # entries removed at once, at most: more would keep requests waiting


def retention_of(query: Mapping[str, str]) -> Retention:
    """What the query of a store's address asks for. Raises: SettingsError."""
    usual = Retention()
    return Retention(
        _entries(query, "log_entries", usual.log_entries), _entries(query, "audit_entries", usual.audit_entries)
    )


def _entries(query: Mapping[str, str], name: str, usual: int) -> int:
    text = query.get(name, str(usual))
    if not text.isdecimal() or int(text) < 1:
        raise SettingsError(f"{name} is {text!r}; it must be a number of entries, 1 or more", param=f"store.{name}")
    return int(text)
