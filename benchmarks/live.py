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
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.live_run import PROBES, Live, LivePlan, Priced, lived
from benchmarks.traces import FOLDER, STREAMS
from evaluation.traces import Sample, Trace, embed_split, read_trace
from policies.pacers.remaining import ANSWER, REFUSE
from policies.registry import build
from policies.replay import BudgetGate, Result, split, split_budget, split_weights, total_budget
from policies.simulation import FixedMemory, PolicyRun, contexts, play
from policies.types import Estimates
from router.settings.sections import Index

LEAST = 0.99  # of replay's Performance; with two workers and requests at once …
LEAST_CROWDED = 0.98
TOLD, TOLD_BY_GRAPH = 1e-4, 0.02  # of quality, and of a cost: charges are whole tokens, a graph misses some neighbours
QUICK = 200  # queries of the short form


def main() -> int:
    """Run, print the table, and say whether the gateway earns what replay says."""
    arguments = _arguments()
    trace = read_trace(_path(arguments.trace))
    plan, sample = planned(trace, arguments)
    as_published, told, expected = replayed(plan, sample)
    if arguments.folder is None:
        with tempfile.TemporaryDirectory(prefix="pointsman-live-") as folder:
            live = asyncio.run(lived(plan, Path(folder)))
    else:
        arguments.folder.mkdir(parents=True, exist_ok=True)
        live = asyncio.run(lived(plan, arguments.folder))
    print(
        table(plan, {"replay": as_published.result, "replay, holding": told.result, "live": live.result}, live),
        flush=True,
    )
    differ = max(differences(plan, expected, live), default=0.0)
    print(f"estimates of the first queries differ from replay's by {differ:.1e}", flush=True)
    least = LEAST if plan.workers == 1 else LEAST_CROWDED
    share = live.result.performance / told.result.performance
    fair = as_good(live, told, plan, least) if arguments.quick else share >= least
    rounding = TOLD if len(plan.past) + len(plan.stream) < Index().graph_from else TOLD_BY_GRAPH
    if differ > rounding:
        print(f"FAILED: estimates of the gateway are not replay's; at most {rounding} is rounding")
        return 1
    if not fair or not live.unchanged:
        print(f"FAILED: {share:.4f} of replay with holds, {least} are due; restarts changed nothing: {live.unchanged}")
        return 1
    return 0


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
    parser.add_argument("--redis", default="", help="a Redis URL (default: SQLite)")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--share", type=float, default=1.0, help="of the answers that are judged (default 1)")
    parser.add_argument("--delay", type=int, default=0, help="requests between an answer and its judgement")
    parser.add_argument("--flip", type=float, default=0.0, help="share of judgements that say the opposite")
    parser.add_argument("--explore", type=float, default=0.0, help="share of the draws (default 0: all is labelled)")
    parser.add_argument("--restart", type=float, action="append", default=[], help="after this share of the stream")
    parser.add_argument("--folder", type=Path, help="that is kept (default: none is)")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} queries of RouterBench and a restart")
    arguments = parser.parse_args()
    if arguments.workers > 1 and not arguments.rate:
        parser.error("workers keep the machine's time: give --rate")
    if arguments.quick:
        arguments.stream, arguments.restart = arguments.stream or QUICK, arguments.restart or [0.5]
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
            share=arguments.share,
            delay=arguments.delay,
            flipped=arguments.flip,
            explore=arguments.explore,
            restarts=frozenset(int(share * count) for share in arguments.restart),
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


def as_good(live: Live, told: PolicyRun, plan: LivePlan, least: float) -> bool:
    """Whether so few queries leave room for it that the gateway earns at least this share: one more or less that fits
    at the end of a budget is a hundredth."""
    earned = np.where(told.served, plan.trace.scores[plan.stream, told.choices], 0.0)
    short = least * earned - np.array(live.scores)
    return bool(short.mean() <= 1.96 * short.std() / np.sqrt(len(short)))


def differences(plan: LivePlan, expected: Sequence[Estimates], live: Live) -> Iterator[float]:
    """By how much the gateway expected something else than replay, before anything was answered."""
    for here, there in zip(live.expected, expected, strict=False):
        for i, name in enumerate(plan.trace.models):
            if name in here:
                quality, cost = here[name]
                yield abs(quality - float(there.quality[i]))
                yield abs(cost / float(there.cost[i]) - 1.0)


def replayed(plan: LivePlan, sample: Sample) -> tuple[PolicyRun, PolicyRun, list[Estimates]]:
    """What replay says of the same order, by its own rule of admission and by that of a ledger, and what it expects of
    the first queries, all from one fit."""
    options = {"when_short": plan.when_short, "explore": plan.explore}
    fitted = build("paced", sample.stream.arms, options)
    fitted.refit(sample.history)
    state = {key: np.array(value) for key, value in fitted.state().items()}
    total = plan.total if plan.budgets is None else np.inf
    gates = BudgetGate(len(plan.trace.models), budgets=plan.budgets, total=total), HoldingGate(plan, total=total)

    def run(gate: BudgetGate) -> PolicyRun:
        policy = build("paced", sample.stream.arms, options)
        policy.restore(state)
        memory, rng = FixedMemory(sample.stream, sample.history), np.random.default_rng(0)
        return play(policy, sample.stream, memory, till=gate, rng=rng, drops=plan.when_short == REFUSE)

    memory = FixedMemory(sample.stream, sample.history)
    first = contexts(sample.stream, memory, most=PROBES)
    return run(gates[0]), run(gates[1]), [fitted.propose(each).estimates for each in first]


def table(plan: LivePlan, results: Mapping[str, Result], live: Live) -> str:
    """All results, as replay prints them."""
    kind = "one budget" if plan.budgets is None else "weighted budgets"
    lines = [
        f"{plan.trace.name}: {len(plan.stream)} queries, {kind} of {plan.total:.6g} USD, when_short {plan.when_short}, "
        f"{'Redis' if plan.store else 'SQLite'}, {plan.workers} worker(s)",
        f"{'':16} {'performance':>12} {'cost_usd':>12} {'per_usd':>10} {'served':>7}",
    ]
    for label, result in results.items():
        lines.append(
            f"{label:16} {result.performance:12.1f} {result.cost:12.6f} {result.performance_per_usd:10.1f} "
            f"{result.throughput:7d}"
        )
    shares = [f"{live.result.performance / each.performance:.4f}" for each in results.values()]
    lines.append(f"live / these: {', '.join(shares)}; not answered: {json.dumps(live.errors)}")
    lines.append(f"worst cases {_slack(plan):.2f} times the answers; last request {live.behind_s:.2f} s late")
    return "\n".join(lines)


def _slack(plan: LivePlan) -> float:
    """How much more is held for an answer than it takes, in the mean."""
    tokens = Priced(plan.trace).tokens[plan.stream]
    return float((tokens.max(axis=1, keepdims=True) / tokens).mean())


if __name__ == "__main__":
    sys.exit(main())
