"""Mistakes put into the ledger and the gateway by hand, one at a time, to see that worlds notice each.

A mutant is a piece of source that must be there, and what stands in its place. A piece that is gone stops the run: the
mutant is then to be written anew.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from router.stores.redis import connection

ACCOUNTING = "router.stores.sqlite.accounting"
LEDGER = "router.stores.sqlite.ledger"
PROGRAMS = "router.programs.running"
SERVING = "router.gateway.serving"
REDIS = "router.stores.redis.ledger"
SCRIPTS = "router.stores.redis.connection"  # reads those in the folder lua beside it


@dataclass(frozen=True, slots=True)
class Mutant:
    """One mistake."""

    what: str
    module: str
    old: str
    new: str
    first: int = 1  # seed from which it may be noticed

    def path(self) -> Path:
        """Of the source. Raises: LookupError."""
        is_script = self.module.endswith(".lua")
        spec = importlib.util.find_spec(SCRIPTS if is_script else self.module)
        if spec is None or spec.origin is None:
            raise LookupError(f"there is no module {self.module}")
        return Path(spec.origin).with_name("lua") / self.module if is_script else Path(spec.origin)

    def changed(self) -> str:
        """The source with the mistake in it. Raises: LookupError where it is another one by now."""
        source = self.path().read_text()
        if source.count(self.old) != 1:
            raise LookupError(f"{self.module} has {source.count(self.old)} times {self.old!r}: {self.what}")
        return source.replace(self.old, self.new)

    def plant(self) -> None:
        """Import the module with the mistake in it; before anybody else does. Raises: LookupError."""
        source, path = self.changed(), str(self.path())
        if self.module.endswith(".lua"):
            text = self.path().read_text()
            right: Callable[[str], str] = connection.script
            connection.script = lambda name: right(name).replace(text, source)
            return
        spec = importlib.util.find_spec(self.module)
        assert spec is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[self.module] = module
        exec(compile(source, path, "exec"), module.__dict__)
        parent, _, name = self.module.rpartition(".")
        setattr(sys.modules[parent], name, module)


MUTANTS = {
    "held": Mutant(
        "a reservation does not see what others hold",
        ACCOUNTING,
        "after = counter.spent + counter.held + need",
        "after = counter.spent + need",
    ),
    "kept": Mutant(
        "what was held is not given back", ACCOUNTING, "max(0, counter.held - row.amount)", "max(0, counter.held)"
    ),
    "twice": Mutant(
        "a budget is charged twice",
        ACCOUNTING,
        "self._charge(counter, cost, soft=soft, row=row)",
        "self._charge(counter, 2 * cost, soft=soft, row=row)",
    ),
    "free": Mutant(
        "a lease that ends with bytes sent is not charged",
        ACCOUNTING,
        '(row.amount, "expired") if row.sent',
        '(0, "expired") if row.sent',
    ),
    "late": Mutant(
        "a late settlement is charged on top of the worst case",
        ACCOUNTING,
        "delta = spend.cost - charged",
        "delta = spend.cost",
    ),
    "unlimited": Mutant(
        "a limit of requests at once refuses nobody",
        ACCOUNTING,
        "if after > limit.limit and",
        'if kind == "budget" and after > limit.limit and',
    ),
    "unrenewed": Mutant(
        "leases are not renewed", LEDGER, "in self._mine.values():", "in list(self._mine.values())[:0]:"
    ),
    "unmarked": Mutant(
        "a stream begins before the ledger knows", SERVING, "await self._mark(attempt, reply)", "await asyncio.sleep(0)"
    ),
    "unreleased": Mutant(
        "a hold stays when its engine fails",
        SERVING,
        "            await to_its_end(self._release(attempt))\n            raise\n        attempt.timings.mark_answer",
        "            raise\n        attempt.timings.mark_answer",
    ),
    "unsettled": Mutant(
        "who hangs up is not charged",
        "router.gateway.answers",
        "            await to_its_end(self.reply.aclose())\n        await self.settle()\n",
        "            await to_its_end(self.reply.aclose())\n",
    ),
    "unbilled": Mutant(
        "a step's cost is not in the bill of its program", PROGRAMS, "self._ended.append(bill.spend)", "bill", 1001
    ),
    "capped": Mutant(
        "what an answer costs beyond its hold is written off",
        "router.gateway.metering",
        "cost = price.of(prompt.tokens, completion.tokens, parts, writes=writes)",
        "cost = min(model.price.of(prompt.tokens, completion.tokens), attempt.hold.amount)",
    ),
    "kinds": Mutant(
        "what a cache had is charged as any other token",
        "router.gateway.metering",
        "cost = price.of(prompt.tokens, completion.tokens, parts, writes=writes)",
        "cost = price.of(prompt.tokens, completion.tokens)",
        first=10_001,
    ),
    "believed": Mutant(
        "any count below the context is believed",
        "router.gateway.metering",
        "counted == 0 if reported is None else least <= reported <= most",
        "counted == 0 if reported is None else reported <= most",
    ),
    "halved": Mutant(
        "half of the completion is held",
        "router.gateway.eligibility",
        "+ requirements.predicted_bytes, context) * choices",
        "+ requirements.predicted_bytes, context) * choices // 2",
    ),
    "torn": Mutant(
        "half an event is relayed",
        "backends.sse",
        'cut = data.rfind(b"\\n\\n") + 2',
        "cut = len(data)",
    ),
    "lua-held": Mutant(
        "in Redis what is held makes no difference",
        "reserve.lua",
        "MOST) - c.sum - c.held\n    used",
        "MOST) - c.sum\n    used",
    ),
    "lua-kept": Mutant(
        "in Redis a hold is not given back", "prelude.lua", "if carried then hold(c, -h.amount) end", ""
    ),
    "lua-free": Mutant(
        "in Redis what was sent is free when its lease ends",
        "prelude.lua",
        "local e = {cost = (h.sent or unknown)",
        "local e = {cost = (unknown)",
    ),
    "lua-twice": Mutant("in Redis who settles twice pays twice", "settle.lua", "if ended == 's' then return 0 end", ""),
    "lua-late": Mutant(
        "in Redis a late settlement is charged on top",
        "settle.lua",
        "if e.cost > charged then add(c, c.slot, e.cost - charged)",
        "if e.cost > 0 then add(c, c.slot, e.cost)",
    ),
    "lua-marked": Mutant("in Redis a mark says nothing", "mark.lua", "redis.call('HSET', key, 'sent', '1')", ""),
    "unrepeated": Mutant(
        "settlements are not repeated to a Redis that lost them",
        REDIS,
        "                await self._settling.repeat_lost(replication)\n",
        "",
    ),
    "orphaned": Mutant(
        "what a killed gateway owed is not taken over", REDIS, "            await self._settling.take_over()\n", ""
    ),
    "unwaited": Mutant(
        "what waits for Redis is not settled", REDIS, "            await self._settling.settle_waiting()\n", ""
    ),
    "anybodys": Mutant(
        "feedback may judge any tenant's decision",
        "router.stores.sqlite.log",
        "if first is not None and first.tenant == tenant else None",
        "if first is not None else None",
    ),
    "unfollowed": Mutant(
        "learning ends when the store was away",
        "router.learning.follower",
        "            except StoreUnavailable as error:\n",
        "            except ZeroDivisionError as error:\n",
    ),
}
