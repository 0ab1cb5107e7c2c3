"""The statements of the ledger, for as many rows at once as they are asked for. Pure text; fails nowhere."""

from __future__ import annotations

from functools import lru_cache

from router.stores.sqlite.counters import COLUMNS
from router.stores.sqlite.database import ROWS, insertion, places
from router.stores.sqlite.timekeeping import Facts

SWEPT = 500  # leases that are ended in one transaction, at most

FACTS = f"SELECT {', '.join(Facts._fields)} FROM facts"
HOLD = "decision, tenant, team, key, model, amount, tokens, at_ms, expires_ms, sent, counts"
EXPIRING = (
    "DELETE FROM holds WHERE decision IN"
    f" (SELECT decision FROM holds WHERE expires_ms <= ? ORDER BY expires_ms LIMIT {SWEPT}) RETURNING {HOLD}"
)


@lru_cache(maxsize=ROWS)
def ending(count: int) -> str:
    """Take these holds out."""
    return f"DELETE FROM holds WHERE decision IN ({places(count)}) RETURNING {HOLD}"


@lru_cache(maxsize=ROWS)
def by_scope(count: int) -> str:
    """All counters of so many scopes."""
    return f"SELECT {COLUMNS} FROM counters WHERE scope IN ({places(count)})"


@lru_cache(maxsize=ROWS)
def by_id(count: int) -> str:
    """So many counters."""
    return f"SELECT {COLUMNS} FROM (VALUES {', '.join(['(?)'] * count)}) CROSS JOIN counters ON id = column1"


@lru_cache(maxsize=ROWS)
def new_holds(count: int) -> str:
    """So many holds."""
    return insertion("holds", 12, count)


@lru_cache(maxsize=ROWS)
def changed_counters(count: int) -> str:
    """So many counters as they are now."""
    names = COLUMNS.split(", ")
    changed = ", ".join(f"{name} = excluded.{name}" for name in names[3:])
    return f"{insertion('counters', len(names), count)} ON CONFLICT (id) DO UPDATE SET {changed}"


SUMS = ("requests", "prompt_tokens", "completion_tokens", "cost")
CORRECT = (
    f"UPDATE spend SET {', '.join(f'{name} = max(0, {name} + ?)' for name in SUMS)}"
    " WHERE day = ? AND tenant = ? AND team = ? AND key = ? AND model = ?"
)


@lru_cache(maxsize=ROWS)
def more_spend(count: int) -> str:
    """Add to so many lines of spend."""
    added = ", ".join(f"{name} = spend.{name} + excluded.{name}" for name in SUMS)
    return f"{insertion('spend', 9, count)} ON CONFLICT DO UPDATE SET {added}"


@lru_cache(maxsize=ROWS)
def more_parts(count: int) -> str:
    """Add to so many kinds of tokens in lines of spend."""
    return f"{insertion('spend_parts', 7, count)} ON CONFLICT DO UPDATE SET tokens = tokens + excluded.tokens"
