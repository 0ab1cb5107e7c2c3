"""What a changing world costs: `python -m benchmarks.drift` replays a trace on which something changes midway.

Preference mode at one λ. The informed router is a static one that hears of the change when it happens; the static one
never hears of it. Printed for each policy: the reward (score − λ·cost, summed) lost against the informed router after
the change. Then the share of (informed − static) that it recovered, and the queries until it was as good as the
informed router. Without the trace it says so and ends.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from msgspec.structs import replace as changed

from benchmarks.traces import PublicTrace, embed_trace, load_trace
from policies.registry import build
from policies.replay import BudgetGate, Rows
from policies.simulation import FixedNeighbours, GrowingNeighbours, QueryStream, simulate
from policies.types import Float, History
from research.provenance import provenance

POLICIES = ("port", "epsilon", "linucb", "thompson", "preference", "paced")
STATIC = frozenset({"port"})  # they are shown the history only, as the paper has it
QUERIES = 3_000
WINDOW = 200  # queries over which "as good as" is judged
CLOSE = 0.25  # share of the gap that may be missing then


@dataclass(frozen=True)
class World:
    """A stream on which something changes, and what the informed router is told when it does."""

    stream: QueryStream
    history: History
    reported: History
    change: int  # the first query after the change


def degrading(stream: QueryStream, history: History, arm: int) -> World:
    """The arm's scores fall to 0.3 of what they were."""
    middle, scores, reported = len(stream) // 2, stream.scores.copy(), history.scores.copy()
    scores[middle:, arm] *= 0.3
    reported[:, arm] *= 0.3
    return World(replace(stream, scores=scores), history, changed(history, scores=reported), middle)


def repriced(stream: QueryStream, history: History, arm: int) -> World:
    """The arm costs five times as much."""
    middle, costs, reported = len(stream) // 2, stream.costs.copy(), history.costs.copy()
    costs[middle:, arm] *= 5.0
    reported[:, arm] *= 5.0
    return World(replace(stream, costs=costs), history, changed(history, costs=reported), middle)


def joined(stream: QueryStream, history: History, arm: int) -> World:
    """The arm exists from the middle on, and history knows 50 answers of it."""
    middle = len(stream) // 2
    present = np.ones(stream.scores.shape, np.bool_)
    present[:middle, arm] = False
    scores, costs = history.scores.copy(), history.costs.copy()
    scores[50:, arm], costs[50:, arm] = np.nan, np.nan
    return World(replace(stream, present=present), changed(history, scores=scores, costs=costs), history, middle)


CHANGES: dict[str, Callable[[QueryStream, History, int], World]] = {
    "a model degrades": degrading,
    "a price rises": repriced,
    "a model joins": joined,
}


def drifting(trace: PublicTrace, rows: Rows, past: Rows) -> World:
    """Traffic moves between tasks: the second half is of tasks that history has never seen, told to the informed."""
    counts = {str(task): int((trace.tasks == task).sum()) for task in np.unique(trace.tasks)}
    late = {task for place, task in enumerate(sorted(counts, key=lambda each: -counts[each])) if place % 2}
    is_late = np.isin(trace.tasks, list(late))
    half = min((~is_late[rows]).sum(), is_late[rows].sum(), QUERIES // 2)
    ordered = np.concatenate([rows[~is_late[rows]][:half], rows[is_late[rows]][:half]])
    known = past[~is_late[past]]
    embedded = embed_trace(trace, known)
    return World(_stream(embedded.history(ordered)), embedded.history(known), embedded.history(past), int(half))


def _stream(rows: History) -> QueryStream:
    return QueryStream(
        rows.arms, rows.embeddings, rows.scores, rows.costs, rows.prompt_tokens, rows.prompt_characters, rows.features
    )


def price_of(history: History) -> float:
    """λ at which quality and cost weigh alike between the models: ratio of the spreads of their means."""
    return float(np.nanmean(history.scores, axis=0).std() / np.nanmean(history.costs, axis=0).std())


def rewards(world: World, name: str, *, price: float, seed: int) -> Float:
    """(N,) score − λ·cost of each query under a policy."""
    stream, history = world.stream, world.history
    policy = build(name, stream.arms, {"horizon": len(stream)} if name == "port" else None)
    policy.refit(history)
    view = (FixedNeighbours if name in STATIC else GrowingNeighbours)(stream, history)
    rng = np.random.default_rng(seed)
    run = simulate(policy, stream, view, gate=BudgetGate(len(stream.arms)), rng=rng, preference=price)
    return _earned(stream, run.choices, price)


def reference_rewards(world: World, *, price: float) -> tuple[Float, Float]:
    """((N,) of the informed router, (N,) of the static one): neighbours, k = 40, with and without what is told."""
    informed = _static(world.stream, world.reported, price, hide=np.zeros(0, int), change=0)
    static = _static(world.stream, world.history, price, hide=_new_arms(world), change=world.change)
    before = np.arange(len(static)) < world.change
    return np.where(before, static, informed), static


def _new_arms(world: World) -> Rows:
    """Arms missing at the start, which a static router never takes up."""
    missing = np.zeros(len(world.stream.arms), np.bool_) if world.stream.present is None else ~world.stream.present[0]
    return np.flatnonzero(missing)


def _static(stream: QueryStream, history: History, price: float, *, hide: Rows, change: int) -> Float:
    policy = build("neighbours", stream.arms)
    policy.refit(history)
    present = np.ones(stream.scores.shape, np.bool_)
    present[:, hide] = False
    shown = replace(stream, present=present)
    run = simulate(
        policy,
        shown,
        FixedNeighbours(shown, history),
        gate=BudgetGate(len(stream.arms)),
        rng=np.random.default_rng(0),
        preference=price,
    )
    return _earned(stream, run.choices, price)


def _earned(stream: QueryStream, choices: Rows, price: float) -> Float:
    rows = np.arange(len(stream))
    return stream.scores[rows, choices] - price * stream.costs[rows, choices]


def most_used(stream: QueryStream, history: History, price: float) -> int:
    """The arm a static router takes most."""
    policy = build("neighbours", stream.arms)
    policy.refit(history)
    run = simulate(
        policy,
        stream,
        FixedNeighbours(stream, history),
        gate=BudgetGate(len(stream.arms)),
        rng=np.random.default_rng(0),
        preference=price,
    )
    return int(np.bincount(run.choices, minlength=len(stream.arms)).argmax())


def recovered_after(ours: Float, informed: Float, static: Float) -> int | None:
    """Queries until the mean over a window lacks no more than CLOSE of the gap; None where it never does."""
    gap = float((informed - static).mean())
    behind = np.convolve(informed - ours, np.ones(WINDOW) / WINDOW, mode="valid")
    close = np.flatnonzero(behind <= CLOSE * gap)
    return int(close[0]) + WINDOW if len(close) else None


def report(title: str, worlds: list[tuple[World, float, int]], names: tuple[str, ...]) -> None:
    """Print one table over seeds."""
    references = [reference_rewards(world, price=price) for world, price, _ in worlds]
    after = [slice(world.change, None) for world, _, _ in worlds]
    pairs = list(zip(references, after, strict=True))
    gap = np.array([(informed[part] - static[part]).sum() for (informed, static), part in pairs])
    queries = len(worlds[0][0].stream) - worlds[0][0].change
    print(f"\n{title}: informed − static = {gap.mean():.1f} over {queries} queries")
    print(f"{'policy':12} {'lost':>8} {'recovered':>10} {'queries until recovered':>24} {'lost before':>12}")
    for name in names:
        ours = [rewards(world, name, price=price, seed=seed) for world, price, seed in worlds]
        rows = list(zip(ours, references, after, strict=True))
        lost = np.array([(informed[part] - mine[part]).sum() for mine, (informed, _), part in rows])
        before = np.array([(informed - mine)[: part.start].sum() for mine, (informed, _), part in rows])
        until = [recovered_after(mine[part], informed[part], static[part]) for mine, (informed, static), part in rows]
        shown = ", ".join("never" if each is None else str(each) for each in until)
        print(
            f"{name:12} {lost.mean():8.1f} {1 - lost.mean() / gap.mean():10.0%} {shown:>24} {before.mean():12.1f}",
            flush=True,
        )


def main() -> None:
    """Print four tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trace", default="routerdc7")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--policy", action="append")
    arguments = parser.parse_args()
    names = tuple(arguments.policy or POLICIES)
    trace = load_trace(arguments.trace)
    splits = [np.random.default_rng(1000 + seed).permutation(len(trace.prompts)) for seed in range(arguments.seeds)]
    count = min(QUERIES, 2 * len(trace.prompts) // 5)
    samples = []
    for order in splits:
        embedded = embed_trace(trace, order[count:])
        samples.append((_stream(embedded.history(order[:count])), embedded.history(order[count:])))
    for title, change in CHANGES.items():
        worlds = []
        for seed, (stream, history) in enumerate(samples):
            price = price_of(history)
            worlds.append((change(stream, history, most_used(stream, history, price)), price, seed))
        report(title, worlds, names)
    worlds = []
    for seed, order in enumerate(splits):
        rows = order[: len(order) // 2]
        world = drifting(trace, rows, order[len(order) // 2 :])
        worlds.append((world, price_of(world.reported), seed))
    report("traffic moves to tasks history has not seen", worlds, names)
    print(f"\n{provenance()}")


if __name__ == "__main__":
    main()
