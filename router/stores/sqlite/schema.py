"""The tables of the SQLite file, as an operator finds them in the sqlite3 shell.

Fails with StoreUnavailable where the file is of another form.
"""

from __future__ import annotations

import sqlite3

from router.errors import StoreUnavailable

VERSION = 5  # of these tables; as PRAGMA user_version
TOP = 1 << 62  # no amount grows beyond

_AMOUNT = f"INTEGER NOT NULL CHECK ({{0}} BETWEEN 0 AND {TOP})"


def _amounts(*names: str) -> str:
    return ", ".join(f"{name} {_AMOUNT.format(name)}" for name in names)


_WHO = "tenant TEXT NOT NULL, team TEXT NOT NULL, key TEXT NOT NULL, model TEXT NOT NULL"

SCHEMA = f"""
-- One row for each limit that something counts on: nano-USD, requests, tokens, or requests at once.
-- spent: what counts now or has counted until lately, in all; fresh: the newest part of it, until ends_ms;
-- past: older parts, as a list of [when it stops counting, amount].
CREATE TABLE counters (
    id INTEGER PRIMARY KEY, scope TEXT NOT NULL, meter TEXT NOT NULL, {_amounts("spent", "held")},
    fresh INTEGER NOT NULL CHECK (fresh BETWEEN 0 AND spent), {_amounts("ends_ms")}, past TEXT NOT NULL DEFAULT '[]',
    UNIQUE (scope, meter)) STRICT;
-- The same as of now.
CREATE VIEW balances AS SELECT scope, meter,
    fresh * (ends_ms > unixepoch() * 1000) + (SELECT ifnull(sum(part.value ->> 1), 0) FROM json_each(past) AS part
        WHERE part.value ->> 0 > unixepoch() * 1000) AS spent, held FROM counters;
-- Requests under way. counts: a list of [counter, soft limit or 0].
CREATE TABLE holds (
    decision TEXT PRIMARY KEY, {_WHO}, {_amounts("amount", "tokens", "at_ms", "expires_ms", "longest_ms")},
    sent INTEGER NOT NULL CHECK (sent IN (0, 1)), counts TEXT NOT NULL) WITHOUT ROWID, STRICT;
-- Holds whose lease ran out: a late settlement corrects what was charged.
CREATE TABLE expired (
    decision TEXT PRIMARY KEY, {_WHO}, {_amounts("amount", "charged", "ended_ms")},
    sent INTEGER NOT NULL CHECK (sent IN (0, 1)), counts TEXT NOT NULL) WITHOUT ROWID, STRICT;
CREATE TABLE spend (
    day TEXT NOT NULL, {_WHO}, {_amounts("requests", "prompt_tokens", "completion_tokens", "cost")},
    PRIMARY KEY (day, tenant, team, key, model)) WITHOUT ROWID, STRICT;
-- Of these tokens, those with a price of their own, by kind: cached, cache_write, reasoning, …; and saved_nanousd, what
-- stored answers cost when they were made.
CREATE TABLE spend_parts (
    day TEXT NOT NULL, {_WHO}, kind TEXT NOT NULL, {_amounts("tokens")},
    PRIMARY KEY (day, tenant, team, key, model, kind)) WITHOUT ROWID, STRICT;
CREATE TABLE audit (
    seq INTEGER PRIMARY KEY, at_ms INTEGER NOT NULL, kind TEXT NOT NULL, subject TEXT NOT NULL, detail TEXT NOT NULL)
    STRICT;
-- One row. newest_ms: the newest time that was written; keys: grows with each change of a tenant, a team or a key;
-- ahead_ms, confirmed_ms: see pointsman clock.
CREATE TABLE facts ({_amounts("newest_ms", "keys", "ahead_ms", "confirmed_ms")}) STRICT;
INSERT INTO facts VALUES (0, 0, 0, 0);
CREATE TABLE log (
    seq INTEGER PRIMARY KEY, kind TEXT NOT NULL, tenant TEXT NOT NULL, decision_id TEXT NOT NULL, response_id TEXT,
    body BLOB NOT NULL) STRICT;
CREATE INDEX log_tenant ON log (tenant);
CREATE INDEX log_decision ON log (decision_id);
CREATE INDEX log_response ON log (response_id) WHERE response_id IS NOT NULL;
-- How many of the log's entries are whose; "|all" has the sum.
CREATE TABLE log_share (tenant TEXT PRIMARY KEY, {_amounts("entries")}) WITHOUT ROWID, STRICT;
CREATE INDEX log_share_entries ON log_share (entries);
-- Answers that clients go on from.
CREATE TABLE conversations (
    tenant TEXT NOT NULL, name TEXT NOT NULL, at_ms INTEGER NOT NULL, body BLOB NOT NULL, PRIMARY KEY (tenant, name))
    STRICT;
CREATE INDEX conversations_age ON conversations (tenant, at_ms);
CREATE TABLE records (
    kind TEXT NOT NULL, name TEXT NOT NULL, body BLOB NOT NULL, PRIMARY KEY (kind, name)) WITHOUT ROWID, STRICT;
PRAGMA user_version = {VERSION};
"""

# What learning keeps for all gateways, and answers that may be given again. Files that are older than these tables get
# them when they are opened.
LATER = (
    "CREATE TABLE IF NOT EXISTS archive (seq INTEGER PRIMARY KEY AUTOINCREMENT, room TEXT NOT NULL,"
    " owner TEXT NOT NULL, name TEXT NOT NULL, body BLOB NOT NULL, UNIQUE (room, owner, name)) STRICT",
    "CREATE INDEX IF NOT EXISTS archive_room ON archive (room, seq)",
    "CREATE TABLE IF NOT EXISTS answers (tenant TEXT NOT NULL, name TEXT NOT NULL, until_ms INTEGER NOT NULL,"
    " body BLOB NOT NULL, PRIMARY KEY (tenant, name)) STRICT",
    "CREATE INDEX IF NOT EXISTS answers_until ON answers (tenant, until_ms)",
    "CREATE TABLE IF NOT EXISTS answer_sizes (tenant TEXT PRIMARY KEY, entries INTEGER NOT NULL,"
    " bytes INTEGER NOT NULL) WITHOUT ROWID, STRICT",
)


def create_or_check(connection: sqlite3.Connection, *, path: object) -> None:
    """Make the tables of a new file, in one transaction. Raises: StoreUnavailable where there are others."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        found = connection.execute("PRAGMA user_version").fetchone()[0]
        is_new = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
        if found == 0 and is_new:
            for statement in SCHEMA.split(";\n"):
                connection.execute(statement)
        elif found != VERSION:
            raise StoreUnavailable(
                f"{path} holds tables of another form (version {found}, not {VERSION}): move it away to begin anew."
            )
        for statement in LATER:
            connection.execute(statement)
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
