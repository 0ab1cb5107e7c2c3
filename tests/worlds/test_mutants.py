"""The scripts with one thing wrong in each: a history shows every one, or the histories are worth nothing."""

from __future__ import annotations

import pytest

from router.errors import PointsmanError
from router.stores.redis import connection
from router.stores.redis import ledger as redis_ledger
from tests.stores.conftest import RedisProcess
from tests.stores.scripts import changed
from tests.worlds.history import World, WrongError

pytestmark = pytest.mark.anyio

SEEDS = range(100, 130)  # as many as it takes; most die of the first
MUTANTS = {
    "a hard limit is not looked at": ("reserve", "if need > room then", "if need > room and g[2] ~= 'budget' then"),
    "one too much fits": ("reserve", "if need > room then", "if need > room + 1 then"),
    "what is held makes no difference": ("reserve", "- c.sum - c.held", "- c.sum"),
    "soft limits refuse": ("reserve", "(g[4] == 1 and g[3] or MOST) - c.sum", "g[3] - c.sum"),
    "the second offer is never looked at": (
        "reserve",
        "for i, offer in ipairs(offers) do",
        "for i, offer in ipairs({offers[1]}) do",
    ),
    "nobody sweeps before reserving": ("reserve", "> 0 then sweep(now, this) end", "> 9 then sweep(now, this) end"),
    "an id that is held is held again": ("reserve", "then return {-2} end", "then end"),
    "a lease lasts a second longer": ("reserve", "int(now + lease), id)", "int(now + lease + 1000), id)"),
    "a release is charged": ("prelude", "if e.outcome ~= 'released' then spend", "if true then spend"),
    "a hold is not given back": ("prelude", "if carried then hold(c, -h.amount) end", ""),
    "a request at once never ends": ("prelude", "if carried then hold(c, -1) end", ""),
    "tokens are not corrected": ("prelude", "e.prompt + e.completion or h.tokens", "h.tokens or h.tokens"),
    "tokens are corrected in the newest slot": (
        "prelude",
        "local slot = math.floor(h.at / c.limit[5])",
        "local slot = c.slot",
    ),
    "a settled hold is swept too": ("prelude", "  redis.call('DEL', P .. ':hold:' .. id)\n", ""),
    "what was sent is free when its lease ends": (
        "prelude",
        "local e = {cost = (h.sent or unknown)",
        "local e = {cost = (unknown)",
    ),
    "what was not sent is charged when its lease ends": (
        "prelude",
        "local unknown = h and not h.sent and",
        "local unknown = h and true or",
    ),
    "a slot counts for one too few": ("prelude", "slot - keep), slot do", "slot - keep - 1), slot do"),
    "the window never moves": ("prelude", "local moved = not known or slot > known", "local moved = not known"),
    "months begin a day late": ("prelude", "return era * 146097 + yoe * 365", "return era * 146097 + 1 + yoe * 365"),
    "days are years": ("prelude", "if calendar == 'day' then", "if calendar == 'daily' then"),
    "who settles twice pays twice": ("settle", "if ended == 's' then return 0 end", ""),
    "a late settlement is not corrected": ("settle", "else add(c, slot_of(g, at), e.cost - charged) end", "end"),
    "a late settlement is charged on top": (
        "settle",
        "if e.cost > charged then add(c, c.slot, e.cost - charged)",
        "if e.cost > 0 then add(c, c.slot, e.cost)",
    ),
    "what was given free is charged later": (
        "settle",
        "if what == 0 and not is_marked then return -1 end",
        "if what == 0 then what = 2 end",
    ),
    "a late correction is a request more": ("settle", "(charged > 0 and 0 or 1)", "1"),
    "a mark says nothing": ("mark", "redis.call('HSET', key, 'sent', '1')", ""),
    "a mark makes a hold of nothing": ("mark", "then return -1 end", "then return 1 end"),
    "leases are renewed beyond their end": ("tend", "math.min(ends, now + ARGV[i + 1])", "now + ARGV[i + 1]"),
    "leases are not renewed": (
        "tend",
        "redis.call('ZADD', P .. ':leases', 'XX'",
        "redis.call('ZADD', P .. ':nowhere', 'XX'",
    ),
    "balances forget what is held": ("balance", "found[#found + 1] = c.held", "found[#found + 1] = 0"),
}


@pytest.fixture(autouse=True)
def nobody_tends_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_ledger, "TICK_S", 3600)


@pytest.mark.parametrize("name", MUTANTS)
async def test_every_mutant_dies(redis_process: RedisProcess, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    where, before, after = MUTANTS[name]
    only = None if where == "prelude" else where
    monkeypatch.setattr(connection, "script", changed(connection.script, before, after, only=only))
    for seed in SEEDS:
        url = f"{redis_process.url}?prefix={{mutant{seed}{abs(hash(name))}}}"
        try:
            await World(url, seed).run()
        except (WrongError, PointsmanError, KeyError):  # a wrong answer, or one that no ledger gives
            return
    pytest.fail(f"nobody saw that {name}")
