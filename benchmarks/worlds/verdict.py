"""Whether a world kept what docs/money.md promises: the invariant of money, no foreign byte, every refusal explained.

Pure: it reads a world that has ended, and says what is wrong in sentences; nothing is what it should say.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from benchmarks.worlds.clients import PATH, ClientRequest
from benchmarks.worlds.engines import EnginePlan
from benchmarks.worlds.programs import costs_of_steps, is_step, programs_over
from benchmarks.worlds.world import LONGEST_S, SeededWorld, Terms
from router.gateway.eligibility import Requirements, expected_prompt_tokens, offer_of, worst_cost
from router.http.schemas import parse
from router.stores.limits import Limit, limits_of
from router.types import DecisionRecord, Feedback, Model, NanoUsd, Offer, SettlementRecord

ALLOWED = frozenset({200, 429, 502, 503, 504})
NEVER = frozenset({"settlement.refused", "counter.full", "spend.full", "hold.unreadable"})
DOUBT = "a replica was promoted"
TOLERATED_S = 4.9  # between a gateway's clock and Redis's
CLOCKS_S = 1.5  # how far two clocks may differ, and a transaction take


class WorldVerdict:
    """Of one world."""

    def __init__(self, world: SeededWorld) -> None:
        self.world = world
        self._paid: dict[str | None, tuple[int, int, str]] = {}
        for line in world.spend:
            paid, times, model = self._paid.get(line.key, (0, 0, ""))
            served = (line.model or "") if line.requests else model  # one that was taken back says none
            self._paid[line.key] = paid + line.cost_nanousd, times + line.requests, served
        self._of_steps = costs_of_steps(world.log)
        self._settled = {e.decision_id for e in world.log if isinstance(e, SettlementRecord)}
        self._doubted = {_key_of(each.detail) for each in world.audit if DOUBT in str(each.detail.get("reason"))}

    def complaints(self) -> list[str]:
        """Everything that is wrong."""
        found = [f"{b.budget.scope} holds {b.held} at the end" for b in self.world.balances if b.held]
        found += [f"audit: {each.kind} of {each.subject}" for each in self.world.audit if each.kind in NEVER]
        found += [*self._unbalanced(), *self._overspent(), *self._over(), *self._unsummed()]
        for request in self.world.requests:
            found += [f"{request.nonce}: {what}" for what in self._of(request)]
        return found + learning_complaints(self.world)

    # money

    def _unbalanced(self) -> Iterator[str]:
        """Budgets and spend lines say the same."""
        for balance in self.world.balances:
            kind, _, name = balance.budget.scope.partition(":")
            asking = self._asking(name)
            lines = [
                each for each in self.world.spend if (each.tenant == name if kind == "tenant" else each.model in asking)
            ]
            spent = sum(line.cost_nanousd for line in lines)
            period_s = balance.budget.period_s
            is_whole = period_s >= 86_400 or (period_s >= 3600 and len(self.world.tenants.get(name, ())) == 1)
            if is_whole and balance.spent != spent:
                yield f"{balance.budget.scope} says {balance.spent} were spent, the lines say {spent}"

    def _asking(self, model: str) -> set[str]:
        """The model, and the programs that may ask it: its budget counts the whole of each."""
        programs = programs_over(self.world.programs, self.world.models)
        least = Requirements(frozenset({"chat"}), 1, 1)
        return {model} | {each.name for each in programs if model in offer_of(each, least).members}

    def _unsummed(self) -> Iterator[str]:
        """A run costs what its steps do, however it ended; who was killed says nothing of its own."""
        if self.world.away or self.world.lost_s:
            return
        for entry in self.world.log:
            if isinstance(entry, SettlementRecord) and entry.decision_id in self._of_steps:
                steps = self._of_steps[entry.decision_id]
                if entry.cost != steps and entry.outcome != "expired":
                    yield f"a run of {entry.model} costs {entry.cost}, its steps {steps}"

    def _over(self) -> Iterator[str]:
        """Only who reports more than can be seen costs more than its worst case."""
        lies = {request.nonce: {plan.lie for _, plan in self._plans(request)} for request in self.world.requests}
        for entry in self.world.audit:
            if entry.kind == "hold.over" and "more" not in lies.get(_key_of(entry.detail), ()):
                yield f"{_key_of(entry.detail)} held {entry.detail['held']} and was charged {entry.detail['charged']}"

    def _overspent(self) -> Iterator[str]:
        """No counter is ever beyond its limit by more than engines reported beyond the holds.

        While what a Redis has lost is put back, and nobody may reserve, a hold may come before the end of another.
        Where Redis lost something, and a gateway that had sent or settled in that time was dead or cut off, its room
        may have been given away. That is said in docs/money.md.
        """
        if "lost" in self.world.away and not all(process.alive_until_end for process in self.world.processes):
            return
        excess = dict.fromkeys(self.world.tenants, 0)
        for request in self.world.requests:
            excess[request.tenant] += sum(self._excess(request, name, plan) for name, plan in self._plans(request))
        total = sum(excess.values())
        open_usage = [usage for usage in self.world.usage if usage.is_open]
        for (scope, meter), (limit, kind) in self._limits().items():
            most = max((usage.used.get((scope, meter), 0) for usage in open_usage), default=0)
            over = total if scope.startswith("model:") else excess.get(scope.removeprefix("tenant:"), 0)
            if most > limit + (over if kind == "budget" else 0) and kind in ("budget", "concurrent"):
                yield f"{scope} {meter} reached {most}, its limit is {limit} and {over} more were reported"

    def _excess(self, request: ClientRequest, name: str, plan: EnginePlan) -> int:
        """By how much an answer may cost more than its hold."""
        versions = self._versions(name, request)
        return max([0, *(max(self._costs(each, request, plan)) - self._worst(request, each) for each in versions)])

    def _limits(self) -> dict[tuple[str, str], tuple[int, str]]:
        """The most that each counter's limit ever was; none where there was a time without it."""
        found: dict[tuple[str, str], tuple[int, str]] = {}
        for tenant, versions in self.world.tenants.items():
            always = [{(g.scope, g.meter): g for g in self._limits_of(tenant, terms)} for _, terms in versions]
            for key in set.intersection(*(set(each) for each in always)):
                found[key] = max(each[key].limit for each in always), always[0][key].kind
        return found

    def _limits_of(self, tenant: str, terms: Terms) -> list[Limit]:
        who = self.world.principal(tenant, "", terms)
        offers = [Offer(model.name, NanoUsd(0), 0, model.budgets, model.limits) for model in self.world.models]
        return [limit for offer in offers for limit in limits_of(who, offer) if limit.hard]

    def _of(self, request: ClientRequest) -> Iterator[str]:
        paid, times, model = self._paid.get(request.nonce, (0, 0, ""))
        plans = self._plans(request)
        asked = [name for name, _ in plans]
        if request.nonce in self._doubted:  # charged at its worst case, though perhaps nobody was asked
            asked += [name for name in self.world.engines if request.model in (name, "auto")]
        failed = self._failed_runs(request)
        if times - len(failed) > 1 or (times < 1) != (paid == 0):
            yield f"was charged {times} times, {paid} nano-USD in all"
        if request.is_whole:
            yield from self._whole(request, paid - sum(failed), model)
        elif request.status == 200 and request.seen and not paid and not self._forgotten(request):
            yield f"has seen {request.seen[:20]!r} and paid nothing"
        versions = [each for name in asked for each in self._versions(name, request)]
        most = max((self._worst(request, each) for each in versions), default=0)
        most += self._most_of_programs(request, plans)
        for name, plan in plans:
            for each in self._versions(name, request):
                most = max(most, *self._costs(each, request, plan))
        if paid > most:
            yield f"paid {paid} where {most} is the most it can cost"
        yield from self._foreign(request, plans)
        yield from self._unexplained(request, plans, paid)

    def _failed_runs(self, request: ClientRequest) -> list[int]:
        """What programs cost that `auto` drew for it before one of its arms answered."""
        if request.model != "auto" or not self.world.programs:
            return []
        mine = {e.decision_id for e in self.world.log if isinstance(e, DecisionRecord) and e.key_id == request.nonce}
        runs = mine & {*self._of_steps} - {request.decision_id}
        costs = {
            e.decision_id: e.cost for e in self.world.log if isinstance(e, SettlementRecord) and e.decision_id in runs
        }
        return [cost for cost in costs.values() if cost]

    def _most_of_programs(self, request: ClientRequest, plans: list[tuple[str, EnginePlan]]) -> int:
        """What a program may cost: its worst case, and what its engines reported beyond theirs."""
        asked = [name for name in self.world.programs if request.model in (name, "auto")]
        worst = [self._worst(request, each) for name in asked for each in self._versions(name, request)]
        return max(worst, default=0) + (sum(self._excess(request, *each) for each in plans) if asked else 0)

    def _whole(self, request: ClientRequest, paid: int, model: str) -> Iterator[str]:
        served = request.headers.get(b"x-pointsman-model", b"").decode()
        if served in self.world.programs:
            is_logged = request.decision_id in self._settled  # a run is, after its steps
            cost = self._of_steps.get(request.decision_id) if is_logged else None
            died = cost is None and not all(process.alive_until_end for process in self.world.processes)  # with its log
            if paid != cost and not died and not self._forgotten(request) and not self.world.away:
                yield f"paid {paid} for {served!r}, whose steps cost {cost}"
            return
        if served not in self.world.engines:
            yield f"was answered by {served!r}"
            return
        plan = self.world.engines[served].plans[request.nonce][-1]
        wanted = {cost for each in self._versions(served, request) for cost in self._costs(each, request, plan)}
        if self._died_owing(request):
            wanted |= {self._worst(request, each) for each in self._versions(served, request)}
        others = (
            bool(self._failed_runs(request)) or model in self.world.programs
        )  # a run before it, which has a line too
        if (paid not in wanted or (model != served and not others)) and not self._forgotten(request):
            yield f"paid {paid} for {model!r}, a whole answer of {served} costs {' or '.join(map(str, sorted(wanted)))}"

    def _died_owing(self, request: ClientRequest) -> bool:
        """Whether its gateway died while Redis was away, and what it owed with it."""
        keeps, lived = self.world.store.has_disks, self.world.gateways[request.gateway].process.alive_until_end
        return bool(self.world.away) and not keeps and not lived

    def _forgotten(self, request: ClientRequest) -> bool:
        """Whether the disk may have lost its settlement."""
        return any(request.at_s <= until and request.ended_s >= since for since, until in self.world.lost_s)

    def _costs(self, model: Model, request: ClientRequest, plan: EnginePlan) -> set[int]:
        """What a whole answer costs."""
        prompt, completion = plan.charged
        if prompt < 0:
            prompt = expected_prompt_tokens(model, _requirements(request))
        return {model.price.of(prompt, completion, plan.parts)}

    def _worst(self, request: ClientRequest, model: Model) -> int:
        return worst_cost(model, _requirements(request))

    def _versions(self, name: str, request: ClientRequest) -> list[Model]:
        """The model as the settings had it while this request was served."""
        found = []
        versions = self.world.versions
        for number, (since_s, models) in enumerate(versions):
            until_s = versions[number + 1][0] if number + 1 < len(versions) else float("inf")
            if until_s >= request.at_s and since_s <= request.ended_s:
                offered = models if name in self.world.engines else programs_over(self.world.programs, models)
                found += [model for model in offered if model.name == name]
        return found

    def _plans(self, request: ClientRequest) -> list[tuple[str, EnginePlan]]:
        """Of every engine that was asked."""
        engines = self.world.engines.values()
        return [(e.name, plan) for e in engines for plan in e.plans.get(request.nonce, ())]

    # what clients saw

    def _foreign(self, request: ClientRequest, plans: list[tuple[str, EnginePlan]]) -> Iterator[str]:
        if request.status != 200 or not request.body:
            return
        try:
            said = request.said if request.hangs_up_bytes is None else request.seen
        except (msgspec.DecodeError, KeyError, IndexError, TypeError) as problem:
            yield f"was sent what is no answer ({problem}): {bytes(request.body[:60])!r}"
            return
        if not any(plan.text.startswith(said) for _, plan in plans):
            yield f"was told {said[:40]!r}, which is not its own"
        if request.is_whole and not any(plan.text == said for _, plan in plans):
            yield f"has a whole answer of {len(said)} characters, which no engine gave"

    def _unexplained(self, request: ClientRequest, plans: list[tuple[str, EnginePlan]], paid: int) -> Iterator[str]:
        if request.ended != "answered":
            return
        if request.status not in ALLOWED:
            yield f"was answered {request.status}: {bytes(request.body[:200])!r}"
        elif request.status != 200:
            if paid and not self.world.away and not self.world.programs:  # a program's steps are paid, whatever follows
                yield f"was refused with {request.status} and paid {paid}"
            faults = {plan.fault for _, plan in plans} - {"none"}
            if request.status == 429 and "busy" not in faults and not self._stands_in_the_way(request):
                yield f"was refused, and no limit stood in its way: {request.error['message']}"
            is_late = request.ended_s - request.at_s >= LONGEST_S
            is_more_expensive = bool(self.world.programs) and len(self.world.versions) > 1  # than the plan had it
            if request.status in (502, 504) and not faults and not is_late and not is_more_expensive:
                yield f"was answered {request.status} though no engine failed: {request.error['message']}"
            if (
                request.status == 503
                and "lease ended" in request.error["message"]
                and not (self._was_away(request) or is_late)
            ):
                yield f"its lease ended while its gateway lived: {request.error['message']}"
            if request.status == 503 and not self._is_troubled(request):
                yield f"was answered 503 though nothing was away: {request.error['message']}"

    def _was_away(self, request: ClientRequest) -> bool:
        """Whether the store was, or the clock of its gateway could not be believed."""
        skew_s = self.world.gateways[request.gateway].process.skew_s
        return bool(self.world.lost_s or self.world.away) or (
            self.world.store.kind == "redis" and abs(skew_s) > TOLERATED_S
        )

    def _stands_in_the_way(self, request: ClientRequest) -> bool:
        """Whether some limit had no room for it at some moment while it asked; of other models some engine failed."""
        names = [*self.world.engines, *self.world.programs] if request.model == "auto" else [request.model]
        full = {name: any(self._is_full(request, each) for each in self._versions(name, request)) for name in names}
        return any(full.values()) and all(full[name] or self._is_in_trouble(name) for name in names)

    def _is_in_trouble(self, name: str) -> bool:
        """Whether anything went wrong at this engine, or its model may have been draining; programs ask both."""
        if name in self.world.programs:
            return any(self._is_in_trouble(each) for each in self.world.engines)
        faults = {plan.fault for plans in self.world.engines[name].plans.values() for plan in plans} - {"none"}
        return bool(faults) or name == "large"

    def _is_full(self, request: ClientRequest, model: Model) -> bool:
        offer = offer_of(model, _requirements(request))
        for _, terms in self.world.tenants[request.tenant]:
            for limit in limits_of(self.world.principal(request.tenant, request.nonce, terms), offer):
                need = need_of(limit.kind, worst=offer.worst, tokens=offer.tokens)
                if limit.hard and self._most_used(request, limit.scope, limit.meter) + need > limit.limit:
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
        if self._was_away(request) or (self.world.drained and request.model != "small"):
            return True
        engines = self.world.engines.values()
        return any(plan.fault != "none" for engine in engines for plans in engine.plans.values() for plan in plans)


def learning_complaints(world: SeededWorld) -> list[str]:
    """What is wrong with what was logged and learned."""
    lasting, may_be_lost = world.views.get("last-h0", ""), bool(world.lost_s) or "lost" in world.away
    found = [f"{name} has learned {seen}, the log says {lasting}" for name, seen in world.views.items()]
    found = [each for each in found if f"learned {lasting}," not in each and "lost" not in world.away]
    logged = [entry for entry in world.log if isinstance(entry, Feedback)]
    for sent in world.feedback:
        times = sum(e.decision_id == sent.judged and e.score == sent.score for e in logged)
        if sent.reported in ("recorded", "known") and sent.tenant != sent.owner:
            found.append(f"{sent.tenant} may judge {sent.nonce} of {sent.owner}")
        if sent.reported == "recorded" and times != 1 and not may_be_lost:
            found.append(f"feedback on {sent.nonce} was recorded and is {times} times in the log")
    if len({(e.decision_id, e.score) for e in logged}) != len(logged):
        found.append("the log has the same judgement twice")
    return found if may_be_lost else found + _logged_otherwise(world)


def _logged_otherwise(world: SeededWorld) -> list[str]:
    """Settlements that say another cost than the spend lines.

    Redis may have heard what its log was told and not what its ledger was. A gateway without a disk that dies then
    leaves the worst case to be charged.
    """
    is_owed = bool(world.away) and not world.store.has_disks
    at_worst = {_key_of(each.detail) for each in world.audit if is_owed and each.kind == "hold.expired"}
    paid = dict[str | None, int]()
    for line in world.spend:
        paid[line.key] = paid.get(line.key, 0) + line.cost_nanousd
    cost = {e.decision_id: int(e.cost) for e in world.log if isinstance(e, SettlementRecord) and e.outcome == "settled"}
    bills = {e.decision_id: e for e in world.log if isinstance(e, DecisionRecord) and not is_step(e)}  # some twice
    said = dict[str, int]()
    for each in bills.values():
        if each.decision_id in cost:
            said[each.key_id] = said.get(each.key_id, 0) + cost[each.decision_id]
    wrong = [
        (key, found, paid.get(key)) for key, found in said.items() if found != paid.get(key) and key not in at_worst
    ]
    return [f"{key}: the log says it paid {said}, the lines say {found}" for key, said, found in wrong]


def _key_of(detail: Mapping[str, object]) -> str:
    """Of an entry of either store."""
    return str(detail["key"]) if "key" in detail else str(detail["who"]).split("\x1f")[2]


def _requirements(request: ClientRequest) -> Requirements:
    return parse(PATH, msgspec.json.encode(request.fields), {}).requirements


def need_of(kind: str, *, worst: int, tokens: int) -> int:
    """How much of a meter a request asks for."""
    if kind == "budget":
        return worst
    return tokens if kind == "tokens" else 1
