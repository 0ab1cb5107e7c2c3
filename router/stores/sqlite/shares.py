"""How many entries of the outcome log are whose, so that a log that is full forgets fairly.

The oldest entries of whoever has most go first: nobody loses an entry while somebody else has notably more, so no
tenant can push the others out. Runs within the caller's transaction and fails as it does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from router.stores.retention import TRIMMED
from router.stores.sqlite.database import Execute

ALL = "|all"  # the sum; no tenant's name holds a |
CHUNK = 32  # entries taken from one tenant at once, at most half of what it has

ADD = (
    "INSERT INTO log_share (tenant, entries) VALUES (?, ?)"
    " ON CONFLICT (tenant) DO UPDATE SET entries = entries + excluded.entries"
)
# never the newest: its number would be given again
OLDEST = "SELECT seq FROM log WHERE tenant = ? AND seq < (SELECT max(seq) FROM log) ORDER BY seq LIMIT ?"


def add(execute: Execute, tenants: Iterable[str]) -> None:
    """One entry was written for each of these."""
    counts = Counter(tenants)
    counts[ALL] = counts.total()
    for tenant, entries in counts.items():
        execute(ADD, (tenant, entries))


def shrink(execute: Execute, kept: int) -> None:
    """Remove entries beyond `kept`, TRIMMED of them at most."""
    over = min(_entries(execute, ALL) - kept, TRIMMED)
    while over > 0:
        removed = _remove(execute, over)
        if not removed:
            return
        over -= removed


def _remove(execute: Execute, over: int) -> int:
    """Up to `over` of the oldest entries of whoever has most; how many there were."""
    sql = "SELECT tenant, entries FROM log_share WHERE tenant <> ? ORDER BY entries DESC, tenant LIMIT 2"
    shares = execute(sql, (ALL,)).fetchall()
    if not shares:
        return 0
    (tenant, most), second = shares[0], shares[1][1] if len(shares) > 1 else 0
    wanted = min(over, max(most - second, min(CHUNK, most // 2), 1))
    removed = execute(f"DELETE FROM log WHERE seq IN ({OLDEST})", (tenant, wanted)).rowcount
    for each in (tenant, ALL):
        execute("UPDATE log_share SET entries = entries - ? WHERE tenant = ?", (removed, each))
    execute("DELETE FROM log_share WHERE tenant = ? AND entries <= 0", (tenant,))
    return removed


def _entries(execute: Execute, tenant: str) -> int:
    found = execute("SELECT entries FROM log_share WHERE tenant = ?", (tenant,)).fetchone()
    return 0 if found is None else int(found[0])
