"""The scripts of the Redis ledger with something changed in them."""

from __future__ import annotations

from collections.abc import Callable

from router.stores.redis import connection

Script = Callable[[str], str]
ORIGINAL: Script = connection.script


def changed(script: Script, before: str, after: str, *, only: str | None = None) -> Script:
    """The same scripts with a text replaced, everywhere or in one; it must be there."""

    def read(name: str) -> str:
        text = script(name)
        if only not in (None, name):
            return text
        if before not in text:
            raise LookupError(f"{before!r} is not in {name}")
        return text.replace(before, after)

    return read


def by_the_callers_clock(script: Script) -> Script:
    """Redis believes what the gateway says the time is."""
    return changed(script, "redis.call('TIME')", "{string.sub(ARGV[1], 1, -4), string.sub(ARGV[1], -3) .. '000'}")
