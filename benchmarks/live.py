"""A public trace through the running gateway, beside `replay`'s figure on the same order: `python -m benchmarks.live`.

Engines answer from the trace, OpenAI's own client asks, feedback goes over HTTP, budgets are the ledger's. The labelled
history is taught by `pointsman learn`'s way. Fails where the gateway earns notably less than replay says.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.live_events import Event, changed, of_models, present, trace_of, truth
from benchmarks.live_run import OWN, PROBES, Live, LivePlan, Priced, lived
from benchmarks.traces import FOLDER, STREAMS
from evaluation.traces import Sample, Trace, embed_split, read_trace
from policies.pacers.remaining import ANSWER, REFUSE
from policies.registry import build
from policies.replay import BudgetGate, Result, split, split_budget, split_weights, total_budget
from policies.simulation import FixedNeighbours, QueryStream, contexts, simulate
from policies.types import Estimates, Float
from research.provenance import provenance
from router.settings.sections import Index

LEAST = 0.99  # of replay's Performance; with two workers and requests at once …
LEAST_CROWDED = 0.98
LEAST_MISLED = 0.9  # … and where judgements are flipped
LEAST_JOINED = 0.6  # of what a late model is worth, so many requests after it came
JOINED_AFTER = 200
LATE_SHARE = 0.05  # of the budgets' period, by which the last request may be late
TOLD, TOLD_BY_GRAPH = 1e-4, 0.02  # of quality, and of a cost: charges are whole tokens, a graph misses some neighbours
QUICK = 200  # queries of the short form


def main() -> int:
    """Run, print the table, and say whether the gateway earns what replay says."""
    arguments = _arguments()
    trace = read_trace(_path(arguments.trace))
    plan, sample = planned(trace, arguments)
    offline = replayed(plan, sample)
    if arguments.folder is None:
        with tempfile.TemporaryDirectory(prefix="pointsman-live-") as folder:
            live = asyncio.run(lived(plan, Path(folder)))
    else:
        arguments.folder.mkdir(parents=True, exist_ok=True)
        live = asyncio.run(lived(plan, arguments.folder))
    results = {"replay": offline.published, "replay, holding": offline.holding, "live": live.result}
    print(table(plan, results, live), provenance(), sep="\n\n", flush=True)
    problems = list(failures(plan, offline, live, roughly=arguments.quick))
    print("\n".join(f"FAILED: {each}" for each in problems))
    return 1 if problems else 0


def failures(plan: LivePlan, offline: Replayed, live: Live, *, roughly: bool) -> Iterator[str]:
    """In what the gateway is not what replay says; `roughly` where the run is too short for a hundredth."""
    differ = max(differences(offline, live), default=0.0)
    print(f"estimates of the first queries differ from replay's by {differ:.1e}", flush=True)
    rounding = TOLD if len(plan.past) + len(plan.stream) < Index().graph_from else TOLD_BY_GRAPH
    if differ > rounding:
        yield f"estimates of the gateway are not replay's; at most {rounding} is rounding"
    least = LEAST_MISLED if plan.flipped else LEAST if plan.workers == 1 else LEAST_CROWDED
    share = live.result.performance / offline.holding.performance
    if not (not_less(live.scores - least * offline.earned) if roughly else share >= least):
        yield f"{share:.4f} of replay with holds, {least} are due"
    if live.behind_s > LATE_SHARE * plan.period_s:
        yield f"{live.behind_s:.1f} s late, and so is the end of a budget of {plan.period_s} s: ask at a lower --rate"
    if not live.unchanged:
        yield "a restart changed decisions"
    for event in plan.events:
        if event.kind == "join":
            after = slice(event.at + JOINED_AFTER, None)
            worth, got = (offline.earned - offline.without)[after], (live.scores - offline.without)[after]
            print(f"{event.model} from {JOINED_AFTER} requests after it came: {got.sum():.1f} of {worth.sum():.1f}")
            if not not_less(got - LEAST_JOINED * worth):
                yield f"{event.model} earns less than {LEAST_JOINED} of its worth"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trace", nargs="?", default="routerbench_subset", help=f"a file, or of {', '.join(STREAMS)}")
    parser.add_argument("--stream", type=int, help="queries; the rest is history")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--split", default="weighted", help="of the budget over models, or global (default weighted)")
    parser.add_argument("--factor", type=float, default=1.0, help="budget, times the cheapest model's cost (default 1)")
    parser.add_argument("--when-short", choices=(ANSWER, REFUSE), default=REFUSE)
    parser.add_argument(
        "--rate", type=float, default=0.0, help="requests a second of the machine's time; 0: a clock of its own"
    )
    parser.add_argument("--redis", default="", nargs="?", const=OWN, help="a Redis of its own, or a URL (else SQLite)")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--at-once", type=int, default=1, help="requests under way, at most (default 1)")
    parser.add_argument("--share", type=float, default=1.0, help="of the answers that are judged (default 1)")
    parser.add_argument("--delay", type=int, default=0, help="requests between an answer and its judgement")
    parser.add_argument("--flip", type=float, default=0.0, help="share of judgements that say the opposite")
    parser.add_argument("--explore", type=float, default=0.0, help="share of the draws (default 0: all is labelled)")
    parser.add_argument("--event", action="append", default=[], help="restart@.5, kill@.5, reload@.5, join:MODEL@.3, …")
    parser.add_argument("--folder", type=Path, help="that is kept (default: none is)")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} queries of RouterBench, a reload, a restart")
    arguments = parser.parse_args()
    if (arguments.workers > 1 or arguments.redis or arguments.at_once > 1) and not arguments.rate:
        parser.error("workers, a Redis and requests at once keep the machine's time: give --rate")
    if arguments.quick:
        arguments.stream = arguments.stream or QUICK
        arguments.event = arguments.event or ["reload@0.3", "restart@0.5"]
    return arguments


def _path(trace: str) -> Path:
    return FOLDER / f"{trace}.parquet" if trace in STREAMS else Path(trace)


def planned(trace: Trace, arguments: argparse.Namespace) -> tuple[LivePlan, Sample]:
    """The run, and the same queries for replay."""
    count = arguments.stream or STREAMS.get(trace.name, len(trace) // 2)
    stream, past = split(len(trace), stream=STREAMS.get(trace.name, count), seed=arguments.seed)
    stream = stream[:count]
    sample = embed_split(trace, stream, past)
    costs = trace.costs[stream]
    total = total_budget(costs, arguments.factor)
    budgets = None
    if arguments.split != "global":
        quality, cost = trace.scores[past].mean(axis=0), trace.costs[past].mean(axis=0)
        budgets = split_budget(total, split_weights(arguments.split, quality, cost, seed=arguments.seed))
    return (
        LivePlan(
            trace=trace,
            stream=stream,
            past=past,
            budgets=budgets,
            total=total,
            when_short=arguments.when_short,
            rate=arguments.rate,
            store=arguments.redis,
            workers=arguments.workers,
            at_once=arguments.at_once,
            share=arguments.share,
            delay=arguments.delay,
            flipped=arguments.flip,
            explore=arguments.explore,
            events=tuple(Event.read(each, models=trace.models, queries=count) for each in arguments.event),
        ),
        sample,
    )


class HoldingGate(BudgetGate):
    """A budget that must hold the worst case of an answer before it is asked for, as a ledger does."""

    def __init__(self, plan: LivePlan, *, total: float) -> None:
        super().__init__(len(plan.trace.models), budgets=plan.budgets, total=total)
        priced, costs = Priced(plan.trace), plan.trace.costs[plan.stream]
        worst = priced.tokens[plan.stream].max(axis=1, keepdims=True) * priced.per_million / 1e6
        self._worst = {(i, float(costs[at, i])): float(worst[at, i]) for at, i in np.ndindex(costs.shape)}

    def admit(self, arm: int, cost: float) -> bool:
        """Charge this answer if its worst case fits; whether it did."""
        if arm < 0 or self._worst[arm, cost] > self.left(arm):
            return False
        return super().admit(arm, cost)


def not_less(gains: Float) -> bool:
    """Whether so few queries leave room for gains (n,) of at least 0 in the mean. One query more or less that fits at
    the end of a budget is a hundredth."""
    return bool(gains.mean() >= -1.96 * gains.std() / np.sqrt(len(gains)))


def differences(offline: Replayed, live: Live) -> Iterator[float]:
    """By how much the gateway expected something else than replay, before anything was answered."""
    for here, there in zip(live.expected, offline.expected, strict=False):
        for i, name in enumerate(offline.models):
            if name in here:
                quality, cost = here[name]
                yield abs(quality - float(there.quality[i]))
                yield abs(cost / float(there.cost[i]) - 1.0)


@dataclass(frozen=True, slots=True)
class Replayed:
    """What replay says of the same order."""

    published: Result  # by its own rule of admission
    holding: Result  # by that of a ledger …
    earned: Float  # (N,) … of each query
    without: Float  # (N,) the same where no model joins
    models: tuple[str, ...]  # (M,) that there are at first
    expected: list[Estimates]  # of them, for the first queries


def replayed(plan: LivePlan, sample: Sample) -> Replayed:
    """Each set of models is fitted once. A model that joins is labelled in the history of the first two results, and is
    no model in the others."""
    stream = changed(sample.stream, plan.events, truth(plan.events, plan.trace, plan.stream))
    sample = replace(sample, stream=stream)
    published, holding, earned, expected = _replayed(plan, sample)
    here = np.flatnonzero(present(plan.events, plan.trace.models, len(plan.stream))[0])
    models, without = tuple(plan.trace.models[column] for column in here), earned
    if len(here) < len(plan.trace.models):
        budgets = None if plan.budgets is None else plan.budgets[here]
        fewer = replace(plan, trace=trace_of(plan.trace, here), budgets=budgets)
        _, _, without, expected = _replayed(fewer, of_models(sample, here))
    return Replayed(published, holding, earned, without, models, expected)


def _replayed(plan: LivePlan, sample: Sample) -> tuple[Result, Result, Float, list[Estimates]]:
    options = {"when_short": plan.when_short, "explore": plan.explore}
    fitted = build("paced", sample.stream.arms, options)
    fitted.refit(sample.history)
    state = {key: np.array(value) for key, value in fitted.state().items()}
    total = plan.total if plan.budgets is None else np.inf

    def run(stream: QueryStream, gate: BudgetGate) -> tuple[Result, Float]:
        policy = build("paced", stream.arms, options)
        policy.restore(state)
        view, rng = FixedNeighbours(stream, sample.history), np.random.default_rng(0)
        played = simulate(policy, stream, view, gate=gate, rng=rng, drops=plan.when_short == REFUSE)
        earned = np.where(played.served, stream.scores[np.arange(len(stream)), played.choices], 0.0)
        return played.result, earned

    published, _ = run(sample.stream, BudgetGate(len(plan.trace.models), budgets=plan.budgets, total=total))
    holding, earned = run(sample.stream, HoldingGate(plan, total=total))
    whole = replace(sample.stream, present=None)
    first = contexts(whole, FixedNeighbours(whole, sample.history), most=PROBES)
    return published, holding, earned, [fitted.propose(each).estimates for each in first]


def table(plan: LivePlan, results: Mapping[str, Result], live: Live) -> str:
    """All results, as replay prints them."""
    kind = "one budget" if plan.budgets is None else "weighted budgets"
    lines = [
        f"{plan.trace.name}: {len(plan.stream)} queries, {kind} of {plan.total:.6g} USD, when_short {plan.when_short}, "
        f"{'Redis' if plan.store else 'SQLite'}, {plan.workers} worker(s), {plan.at_once} at once, "
        f"{', '.join(f'{each.kind} {each.model}@{each.at}' for each in plan.events) or 'nothing happens'}",
        f"{'':16} {'performance':>12} {'cost_usd':>12} {'per_usd':>10} {'served':>7}",
    ]
    for label, result in results.items():
        lines.append(
            f"{label:16} {result.performance:12.1f} {result.cost:12.6f} {result.performance_per_usd:10.1f} "
            f"{result.throughput:7d}"
        )
    shares = [f"{live.result.performance / each.performance:.4f}" for each in results.values()]
    lines.append(f"live / these: {', '.join(shares)}; not answered: {json.dumps(live.errors)}")
    seen = f"{len(live.versions)} fits and {len(live.snapshots)} snapshots were seen"
    lines.append(f"worst cases {_slack(plan):.2f} times the answers; at most {live.behind_s:.2f} s late; {seen}")
    return "\n".join(lines)


def _slack(plan: LivePlan) -> float:
    """How much more is held for an answer than it takes, in the mean."""
    tokens = Priced(plan.trace).tokens[plan.stream]
    return float((tokens.max(axis=1, keepdims=True) / tokens).mean())


if __name__ == "__main__":
    sys.exit(main())
