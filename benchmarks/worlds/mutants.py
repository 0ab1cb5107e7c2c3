"""Mistakes put into the ledger and the gateway by hand, one at a time, to see that worlds notice each.

A mutant is a piece of source that must be there, and what stands in its place. A piece that is gone stops the run: the
mutant is then to be written anew.
"""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path

ACCOUNTING = "router.stores.sqlite.accounting"
LEDGER = "router.stores.sqlite.ledger"
SERVING = "router.gateway.serving"


@dataclass(frozen=True, slots=True)
class Mutant:
    """One mistake."""

    what: str
    module: str
    old: str
    new: str

    def plant(self) -> None:
        """Import the module with the mistake in it; before anybody else does. Raises: LookupError."""
        spec = importlib.util.find_spec(self.module)
        if spec is None or spec.origin is None:
            raise LookupError(f"there is no module {self.module}")
        source = Path(spec.origin).read_text()
        if source.count(self.old) != 1:
            raise LookupError(f"{self.module} has {source.count(self.old)} times {self.old!r}: {self.what}")
        module = importlib.util.module_from_spec(spec)
        sys.modules[self.module] = module
        exec(compile(source.replace(self.old, self.new), spec.origin, "exec"), module.__dict__)
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
        "if after > gauge.limit and",
        'if kind == "budget" and after > gauge.limit and',
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
        "        except BackendError:\n            await self._release(attempt)\n",
        "        except BackendError:\n",
    ),
    "unsettled": Mutant(
        "who hangs up is not charged",
        "router.gateway.answers",
        "await asyncio.shield(closing)\n        await self.settle()",
        "await asyncio.shield(closing)",
    ),
    "capped": Mutant(
        "what an answer costs beyond its hold is written off",
        "router.gateway.metering",
        "cost = model.price_at(report.served_by).of(prompt.tokens, completion.tokens, parts)",
        "cost = min(model.price.of(prompt.tokens, completion.tokens), attempt.hold.amount)",
    ),
    "believed": Mutant(
        "any count below the context is believed",
        "router.gateway.metering",
        "return self.least <= self.reported <= self.most",
        "return self.reported <= self.most",
    ),
    "halved": Mutant(
        "half of the completion is held",
        "router.gateway.eligibility",
        "+ needs.predicted_bytes, context) * choices",
        "+ needs.predicted_bytes, context) * choices // 2",
    ),
    "torn": Mutant(
        "half an event is relayed",
        "backends.sse",
        "cut = 0 if end < 0 else end + 2",
        "cut = len(data) if end < 0 else end + 2",
    ),
}
