"""Whether a world kept what docs/money.md promises: the invariant of money, no foreign byte, every refusal explained.

Pure: it reads a world that has ended, and says what is wrong in sentences; nothing is what it should say.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from benchmarks.worlds.clients import PATH, ClientRequest
from benchmarks.worlds.engines import EnginePlan
from benchmarks.worlds.world import LONGEST_S, SeededWorld
from router.gateway.eligibility import Requirements, expected_prompt_tokens, worst_tokens
from router.http.schemas import parse
from router.stores.limits import gauges_of
from router.types import Model, Offer

ALLOWED = frozenset({200, 429, 502, 503, 504})
CLOCKS_S = 1.5  # how far two clocks may differ, and a transaction take


class WorldVerdict:
    """Of one world."""

    def __init__(self, world: SeededWorld) -> None:
        self.world = world
        self._models = {model.name: model for model in world.models}
        self._paid: dict[str | None, tuple[int, int, str]] = {}
        for line in world.spend:
            paid, times, _ = self._paid.get(line.key, (0, 0, ""))
            self._paid[line.key] = paid + line.cost_nanousd, times + line.requests, line.model or ""

    def complaints(self) -> list[str]:
        """Everything that is wrong."""
        found = [f"{b.budget.scope} holds {b.held} at the end" for b in self.world.balances if b.held]
        found += [*self._unbalanced(), *self._overspent(), *self._over()]
        for request in self.world.requests:
            found += [f"{request.nonce}: {what}" for what in self._of(request)]
        return found

    # money

    def _unbalanced(self) -> Iterator[str]:
        """Budgets and spend lines say the same."""
        for balance in self.world.balances:
            kind, _, name = balance.budget.scope.partition(":")
            lines = [line for line in self.world.spend if name == (line.tenant if kind == "tenant" else line.model)]
            spent = sum(line.cost_nanousd for line in lines)
            if balance.budget.period_s >= 3600 and balance.spent != spent:
                yield f"{balance.budget.scope} says {balance.spent} were spent, the lines say {spent}"

    def _over(self) -> Iterator[str]:
        """Only who reports more than can be seen costs more than its worst case."""
        lies = {request.nonce: {plan.lie for _, plan in self._plans(request)} for request in self.world.requests}
        for entry in self.world.audit:
            if entry.kind == "hold.over" and "more" not in lies.get(str(entry.detail["key"]), ()):
                yield f"{entry.detail['key']} held {entry.detail['held']} and was charged {entry.detail['charged']}"

    def _overspent(self) -> Iterator[str]:
        """No counter is ever beyond its limit by more than engines reported beyond the holds."""
        excess = dict.fromkeys(self.world.tenants, 0)
        for request in self.world.requests:
            for model, plan in self._plans(request):
                excess[request.tenant] += max(0, self._cost(request, model, plan) - self._worst(request, model))
        total = sum(excess.values())
        for (scope, meter), (limit, kind) in self._limits().items():
            most = max((usage.used.get((scope, meter), 0) for usage in self.world.usage), default=0)
            over = total if scope.startswith("model:") else excess.get(scope.removeprefix("tenant:"), 0)
            if most > limit + (over if kind == "budget" else 0) and kind in ("budget", "concurrent"):
                yield f"{scope} {meter} reached {most}, its limit is {limit} and {over} more were reported"

    def _limits(self) -> dict[tuple[str, str], tuple[int, str]]:
        found: dict[tuple[str, str], tuple[int, str]] = {}
        for tenant in self.world.tenants:
            who = self.world.principal(tenant, "")
            for model in self.world.models:
                for gauge in gauges_of(who, Offer(model.name, 0, 0, model.budgets, model.limits)):  # type: ignore[arg-type]
                    if gauge.hard:
                        found[gauge.scope, gauge.meter] = gauge.limit, gauge.kind
        return found

    def _of(self, request: ClientRequest) -> Iterator[str]:
        paid, times, model = self._paid.get(request.nonce, (0, 0, ""))
        plans = self._plans(request)
        if times > 1 or (times < 1) != (paid == 0):
            yield f"was charged {times} times, {paid} nano-USD in all"
        if request.is_whole:
            yield from self._whole(request, paid, model)
        elif request.status == 200 and request.said and not paid and not self._forgotten(request):
            yield f"has seen {request.said[:20]!r} and paid nothing"
        most = max((max(self._cost(request, m, p), self._worst(request, m)) for m, p in plans), default=0)
        if paid > most:
            yield f"paid {paid} where {most} is the most it can cost"
        yield from self._foreign(request, plans)
        yield from self._unexplained(request, plans, paid)

    def _whole(self, request: ClientRequest, paid: int, model: str) -> Iterator[str]:
        served = request.headers.get(b"x-pointsman-model", b"").decode()
        if served not in self.world.engines:
            yield f"was answered by {served!r}"
            return
        wanted = self._cost(request, self._models[served], self.world.engines[served].plans[request.nonce])
        if (paid, model) != (wanted, served) and not self._forgotten(request):
            yield f"paid {paid} for {model!r}, a whole answer of {served} costs {wanted}"

    def _forgotten(self, request: ClientRequest) -> bool:
        """Whether the disk may have lost its settlement."""
        return any(request.at_s <= until and request.ended_s >= since for since, until in self.world.lost_s)

    def _cost(self, request: ClientRequest, model: Model, plan: EnginePlan) -> int:
        prompt, completion = plan.charged
        if prompt < 0:
            prompt = expected_prompt_tokens(model, _needs(request))
        return model.price.of(prompt, completion)

    def _worst(self, request: ClientRequest, model: Model) -> int:
        return model.price.of(*worst_tokens(model, _needs(request)))

    def _plans(self, request: ClientRequest) -> list[tuple[Model, EnginePlan]]:
        """Of every engine that was asked."""
        engines = self.world.engines.values()
        return [(self._models[e.name], e.plans[request.nonce]) for e in engines if request.nonce in e.plans]

    # what clients saw

    def _foreign(self, request: ClientRequest, plans: list[tuple[Model, EnginePlan]]) -> Iterator[str]:
        if request.status != 200 or not request.body:
            return
        try:
            said = request.said
        except (msgspec.DecodeError, KeyError, IndexError, TypeError) as problem:
            yield f"was sent what is no answer ({problem}): {bytes(request.body[:60])!r}"
            return
        if not any(plan.text.startswith(said) for _, plan in plans):
            yield f"was told {said[:40]!r}, which is not its own"
        if request.is_whole and not any(plan.text == said for _, plan in plans):
            yield f"has a whole answer of {len(said)} characters, which no engine gave"

    def _unexplained(self, request: ClientRequest, plans: list[tuple[Model, EnginePlan]], paid: int) -> Iterator[str]:
        if request.ended != "answered":
            return
        if request.status not in ALLOWED:
            yield f"was answered {request.status}: {bytes(request.body[:200])!r}"
        elif request.status != 200:
            if paid:
                yield f"was refused with {request.status} and paid {paid}"
            faults = {plan.fault for _, plan in plans} - {"none"}
            if request.status == 429 and "busy" not in faults and not self._stands_in_the_way(request):
                yield f"was refused, and no limit stood in its way: {request.error['message']}"
            is_late = request.ended_s - request.at_s >= LONGEST_S
            if request.status in (502, 504) and not faults and not is_late:
                yield f"was answered {request.status} though no engine failed: {request.error['message']}"
            if request.status == 503 and "lease ended" in request.error["message"] and not self.world.lost_s:
                yield f"its lease ended while its gateway lived: {request.error['message']}"
            if request.status == 503 and not self._is_troubled(request):
                yield f"was answered 503 though nothing was away: {request.error['message']}"

    def _stands_in_the_way(self, request: ClientRequest) -> bool:
        """Whether some limit had no room for it at some moment while it asked; of other models some engine failed."""
        names = [request.model] if request.model in self._models else list(self._models)
        full = {name: self._is_full(request, self._models[name]) for name in names}
        return any(full.values()) and all(full[name] or self._is_in_trouble(name) for name in names)

    def _is_in_trouble(self, name: str) -> bool:
        """Whether anything went wrong at this engine, or its model may have been draining."""
        faults = {plan.fault for plan in self.world.engines[name].plans.values()} - {"none"}
        return bool(faults) or name == "large"

    def _is_full(self, request: ClientRequest, model: Model) -> bool:
        worst = worst_tokens(model, _needs(request))
        offer = Offer(model.name, model.price.of(*worst), sum(worst), model.budgets, model.limits)
        for gauge in gauges_of(self.world.principal(request.tenant, request.nonce), offer):
            need = need_of(gauge.kind, worst=offer.worst, tokens=offer.tokens)
            if gauge.hard and self._most_used(request, gauge.scope, gauge.meter) + need > gauge.limit:
                return True
        return False

    def _most_used(self, request: ClientRequest, scope: str, meter: str) -> int:
        """While it asked; what it found when it came was written before."""
        found = 0
        for usage in self.world.usage:
            if usage.at_s > request.ended_s:
                break
            used = usage.used.get((scope, meter), 0)
            found = used if usage.at_s < request.at_s - CLOCKS_S else max(found, used)
        return found

    def _is_troubled(self, request: ClientRequest) -> bool:
        """Whether engines failed, or somebody died, before it was answered."""
        if self.world.lost_s or (self.world.drained and request.model != "small"):
            return True
        engines = self.world.engines.values()
        return any(plan.fault != "none" for engine in engines for plan in engine.plans.values())


def _needs(request: ClientRequest) -> Requirements:
    return parse(PATH, msgspec.json.encode(request.fields), {}).needs


def need_of(kind: str, *, worst: int, tokens: int) -> int:
    """How much of a meter a request asks for."""
    if kind == "budget":
        return worst
    return tokens if kind == "tokens" else 1
