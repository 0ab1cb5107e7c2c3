"""Routing quality of `paced` on the public traces, beside what it must reach and what it aims at.

`python -m benchmarks.routing [--seeds N] [--only TABLE …]` prints one table after the other. Products run on
one thread: on a busy machine the threads of small ones would wait for each other.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Mapping
from functools import cache

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from benchmarks import budget_pacing
from benchmarks.lexical import lexical
from benchmarks.one_decision import speed
from benchmarks.runs import Fitted, Prepared, Setup, budgets_of, fit, prefer, route
from benchmarks.traces import SEEDS, PublicTrace, load_trace
from policies.baselines import neighbour_means, optimum
from policies.estimators.cold_start import KnownArms, fit_cold_start, known_arms
from policies.estimators.prompt_selection import c_optimal_prompts
from policies.identity import Skills, Vector
from policies.replay import BudgetGate, admitted, aiq, apgr, judge, sweep
from policies.types import Float, Float32
from research.provenance import provenance

SHORT = {"routerbench_subset": "RouterBench", "routerdc7": "RouterDC-7", "routellm_mmlu_gsm8k": "RouteLLM"}
SIX = ("weighted", "cost", "perf", "uniform", "random", "extreme")
GOALS: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]] = {  # must, aim; by trace or for all
    "performance": ((185, 2480, 2620), (194, 2565, 2665)),
    "six": ((105, 113, 116), (110, 116, 118)),
    "aiq": ((0.870, 0.538, 0.779), (0.880, 0.545, 0.783)),
}
SKILLS = 6  # directions of D-optimal design


@cache
def trace(name: str) -> PublicTrace:
    return load_trace(name)


@cache
def fitted(name: str, seed: int) -> Fitted:
    return fit(trace(name), seed)


@cache
def kinds(name: str, seed: int) -> tuple[Float, Float]:
    return fitted(name, seed).kinds()


@cache
def known_without(name: str, seed: int, arm: int) -> KnownArms:
    """All arms but one."""
    run, others = fitted(name, seed), np.arange(len(trace(name).models)) != arm
    _, rehearsal = Prepared(run).rehearsal or ((), run.expected)
    return known_arms(run.trace.scores[run.history][:, others], rehearsal.quality[:, others], kinds(name, seed)[0])


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="at most so many of each trace's seeds")
    parser.add_argument("--only", nargs="*", choices=list(TABLES), default=list(TABLES))
    arguments = parser.parse_args()
    threadpool_limits(1)
    for table in arguments.only:
        started = time.perf_counter()
        print(f"\n{(TABLES[table].__doc__ or table).splitlines()[0]}")
        for line in TABLES[table](arguments.seeds):
            print(f"  {line}", flush=True)
        print(f"  ({time.perf_counter() - started:.0f} s)", flush=True)
    print(f"\n{provenance()}")


def _seeds(name: str, most: int) -> range:
    return range(min(SEEDS[name], most))


def _goal(table: str, name: str) -> str:
    must, aim = (goals[list(SHORT).index(name)] for goals in GOALS[table])
    return f"must {must:g}, aim {aim:g}"


def _approximate(run: Fitted, vectors: Float32, budgets: Float) -> float:
    """ApproxOpt: the LP on the means of the five nearest history rows by vectors (N, d), rounded, truly admitted."""
    similarity = vectors[run.stream] @ vectors[run.history].T
    past = run.trace.scores[run.history], run.trace.costs[run.history]
    quality, cost = (neighbour_means(similarity.astype(np.float64), each, k=5) for each in past)
    return _performance(optimum(quality, cost, budgets=budgets), run, budgets)


def _performance(choices: np.ndarray, run: Fitted, budgets: Float) -> float:
    served = admitted(choices, run.costs, BudgetGate(len(budgets), budgets=budgets))
    return judge(choices, served, scores=run.scores, costs=run.costs).performance


def performance(seeds: int) -> Iterable[str]:
    """Performance, weighted split, factor 1 (mean ± std over seeds; % of TrueOpt on seed 0)"""
    for name, label in SHORT.items():
        rows = []
        for seed in _seeds(name, seeds):
            run = fitted(name, seed)
            result = route(run, Setup(budgets_of(run, "weighted", seed)))
            rows.append((result.performance, result.cost, result.performance_per_usd, result.throughput))
            yield f"{label:12} seed {seed}: {result.performance:.1f}"
        first = fitted(name, 0)
        budgets = budgets_of(first, "weighted", 0)
        true = 100 * rows[0][0] / _performance(optimum(first.scores, first.costs, budgets=budgets), first, budgets)
        mean, std = np.mean(rows, axis=0), np.std(rows, axis=0)
        yield (
            f"{label:12} {mean[0]:8.1f} ± {std[0]:.1f}   ({_goal('performance', name)})   cost {mean[1]:.4f} USD, "
            f"{mean[2]:.0f} per USD, served {mean[3]:.0f}, {true:.1f}% of TrueOpt"
        )


def six(seeds: int) -> Iterable[str]:
    """Six splits, % of ApproxOpt (extreme is the mean over its k; mean ± std over seeds)

    ApproxOpt's neighbours are found in a plain lexical embedding; then, for comparison, in the router's own.
    """
    for name, label in SHORT.items():
        rows = []
        for seed in _seeds(name, seeds):
            rows.append(_six_shares(fitted(name, seed), seed))
            yield f"{label:12} seed {seed}: {rows[-1][0].mean():.1f}, in the own embedding {rows[-1][1].mean():.1f}"
        for at, reference in enumerate(("", ", in the own embedding")):
            of_one = np.array([row[at] for row in rows])
            detail = "  ".join(f"{rule} {value:.1f}" for rule, value in zip(SIX, of_one.mean(axis=0), strict=True))
            mean, std = of_one.mean(), of_one.mean(axis=1).std()
            yield f"{label:12} {mean:6.1f} ± {std:.1f}   ({_goal('six', name)}{reference})   {detail}"


def _six_shares(run: Fitted, seed: int) -> Float:
    """(2, 6) % of ApproxOpt for each of SIX, by the lexical and by the own embedding."""
    references = lexical(run.trace.name, run.history), run.embedded.vectors
    shares: dict[str, list[list[float]]] = {rule: [] for rule in SIX}
    for rule in _rules(len(run.trace.models)):
        budgets = budgets_of(run, rule, seed)
        found = 100 * route(run, Setup(budgets)).performance
        of_each = [found / _approximate(run, vectors, budgets) for vectors in references]
        shares["extreme" if rule.startswith("extreme") else rule].append(of_each)
    return np.array([np.mean(shares[rule], axis=0) for rule in SIX]).T


def _rules(arms: int) -> list[str]:
    return [*SIX[:-1], *(f"extreme{k}" for k in range(1, 6) if k < arms)]


def budget(seeds: int) -> Iterable[str]:
    """One budget, factor 1: beside always-the-cheapest and the plan that drops"""
    for name, label in SHORT.items():
        for seed in _seeds(name, seeds):
            yield f"{label:12} seed {seed}: {budget_pacing.bounds(fitted(name, seed))}"


def both(seeds: int) -> Iterable[str]:
    """Models' budgets only, and with as much for all together (mean over seeds)"""
    for name, label in SHORT.items():
        rows = [budget_pacing.both(fitted(name, seed), seed) for seed in _seeds(name, seeds)]
        own, together = np.mean(rows, axis=0)
        yield f"{label:12} {own:8.1f} {together:8.1f}"


def tenants(seeds: int) -> Iterable[str]:
    """Many tenants behind one gateway, % of what each earns alone (seed 0; each at least 97)"""
    for name, label in SHORT.items():
        found = budget_pacing.tenants(fitted(name, 0))
        yield f"{label:12} {'   '.join(f'{tenant} {share:.1f}' for tenant, share in found)}"


def preference(seeds: int) -> Iterable[str]:
    """Preference mode: AIQ on all traces, APGR on the two-model one"""
    for name, label in SHORT.items():
        values: list[float] = []
        gaps: dict[str, list[float]] = {"mmlu": [], "gsm8k": []}
        for seed in _seeds(name, seeds):
            run = fitted(name, seed)
            quality, cost = run.expected.quality, run.expected.cost
            values.append(aiq(sweep(quality, cost, scores=run.scores, costs=run.costs), run.costs))
            for task in gaps if len(run.trace.models) == 2 else ():
                rows = np.char.startswith(run.trace.tasks[run.stream], task)
                weak, strong = run.scores[rows].T
                gaps[task].append(apgr((quality[:, 1] - quality[:, 0])[rows], weak=weak, strong=strong))
        yield f"{label:12} AIQ {np.mean(values):.4f}   ({_goal('aiq', name)})"
    yield f"APGR on MMLU, all labels {np.mean(gaps['mmlu']):.3f} (must 0.65, aim 0.68)"
    yield f"APGR on GSM8K, all labels {np.mean(gaps['gsm8k']):.3f} (must 0.62, aim 0.68)"


def orders(seeds: int) -> Iterable[str]:
    """Task-blocked order and a wrong horizon, % of the own result in random order with N known (mean ± std)"""
    for name, label in SHORT.items():
        rows = []
        for seed in _seeds(name, seeds):
            run = fitted(name, seed)
            budgets = budgets_of(run, "weighted", seed)
            own = route(run, Setup(budgets)).performance
            blocked = [route(run, Setup(budgets), order=_blocked(run, each)).performance for each in range(3)]
            wrong = [route(run, Setup(budgets), horizon=int(len(run.stream) * part)).performance for part in (0.7, 1.4)]
            rows.append(100 * np.array([np.mean(blocked), np.min(blocked), *wrong]) / own)
        (blocked, worst, short, long), spread = np.mean(rows, axis=0), np.std(rows, axis=0)
        yield (
            f"{label:12} blocked {blocked:.1f} ± {spread[0]:.1f}, worst of three {worst:.1f} (must 95, aim 98)   "
            f"N×0.7 {short:.1f} ± {spread[2]:.1f}, N×1.4 {long:.1f} ± {spread[3]:.1f} (must 85, aim 95)"
        )


def _blocked(run: Fitted, seed: int) -> np.ndarray:
    """Stream rows task by task, tasks in random order."""
    tasks, numbers = np.unique(run.trace.tasks[run.stream], return_inverse=True)
    return np.argsort(np.random.default_rng(seed).permutation(len(tasks))[numbers], kind="stable")


def unseen(seeds: int) -> Iterable[str]:
    """A task the history never saw, % of the own full-history result (tasks of at least 5% of the rows, seed 0)"""
    shares = []
    for name, label in SHORT.items():
        tasks, counts = np.unique(trace(name).tasks, return_counts=True)
        full = fitted(name, 0)
        budgets = budgets_of(full, "weighted", 0)
        own = route(full, Setup(budgets)).performance
        for task in tasks[counts >= 0.05 * counts.sum()]:
            shares.append(100 * route(fit(trace(name), 0, unseen=str(task)), Setup(budgets)).performance / own)
            yield f"{label:12} without {task}: {shares[-1]:.1f}"
    yield f"mean {np.mean(shares):.1f}, worst {np.min(shares):.1f} (must 91, aim 95)"


def changes(seeds: int) -> Iterable[str]:
    """Mid-stream changes in preference mode: % of (informed − static) recovered, and what adapting costs (seed 0)"""
    for name, label in SHORT.items():
        sums: dict[str, Float] = {}
        for seed in _seeds(name, min(seeds, 1)):
            run = fitted(name, seed)
            for part in (0.05, 0.1, 0.3):
                for kind, values in _changed(run, part / run.expected.cost.mean()).items():
                    sums[kind] = sums.get(kind, np.zeros(3)) + values
        steady, adapted, _ = sums.pop("stationary")
        shares = {kind: 100 * (ours - static) / (informed - static) for kind, (static, ours, informed) in sums.items()}
        loss = 100 * (steady - adapted) / abs(steady)
        yield (
            f"{label:12} ×0.3 {shares['degraded']:.1f} (must 90, aim 96)   "
            f"out {shares['out']:.1f} (must 80, aim 92)   "
            f"price ×5 {shares['more_expensive']:.1f} (must 95, aim 99)   stationary loss {loss:.2f}% (must 1, aim 0.3)"
        )


def _changed(run: Fitted, price: float) -> dict[str, Float]:
    """(static, ours, informed) utility of the second half of the stream for each kind of change."""
    quality, cost, half = run.expected.quality, run.expected.cost, len(run.stream) // 2
    top = int(np.bincount(np.argmax(quality - price * cost, axis=1)).argmax())

    def after(values: Float, factor: float) -> Float:
        changed = values.copy()
        changed[half:, top] *= factor
        return changed

    def utility(scores: Float, costs: Float, known: tuple[Float, Float]) -> Float:
        rows = np.arange(len(scores))
        static, informed = (np.argmax(q - price * c, axis=1) for q, c in ((quality, cost), known))
        worth = scores - price * costs
        ours = prefer(run, price, scores=scores, costs=costs)[half:].sum()
        return np.array([worth[rows, static][half:].sum(), ours, worth[rows, informed][half:].sum()])

    return {
        "degraded": utility(after(run.scores, 0.3), run.costs, (after(quality, 0.3), cost)),
        "out": utility(after(run.scores, 0.0), run.costs, (after(quality, 0.0), cost)),
        "more_expensive": utility(run.scores, after(run.costs, 5.0), (quality, after(cost, 5.0))),
        "stationary": utility(run.scores, run.costs, (quality, cost)),
    }


def cold_start(seeds: int) -> Iterable[str]:
    """A new model with few labels: share of its routing value (each in turn, eight draws; mean ± std over seeds)

    The prompts: `c-optimal` for its level, or of its skills by `D-optimal` design, each of a random half of the
    history for each draw; or drawn `evenly`.
    """
    for name, label in SHORT.items():
        arms, seen = range(len(trace(name).models)), _seeds(name, seeds)
        for how in ("c-optimal", "D-optimal", "evenly"):
            shown = []
            for labels, goal in ((50, "must 33 / 50, aim 60"), (20, "never below 0")):
                rows = [[_joined(name, seed, arm, labels, how) for arm in arms] for seed in seen]
                sums = np.array(rows).sum(axis=1)
                share, each = 100 * sums[:, 0].sum() / sums[:, 1].sum(), 100 * sums[:, 0] / sums[:, 1]
                shown.append(f"{labels} labels {share:.0f} ± {each.std():.0f}%, least {each.min():.0f} ({goal})")
            yield f"{label:12} {how:9} {'   '.join(shown)}"


def _joined(name: str, seed: int, arm: int, labels: int, how: str, draws: int = 8) -> Float:
    """(utility gained by joining with few labels, with all), summed over draws, averaged over a sweep of λ."""
    run, (_, asked) = fitted(name, seed), kinds(name, seed)
    known = known_without(name, seed, arm)
    others = [each for each in range(len(run.trace.models)) if each != arm]
    prices = np.geomspace(0.003, 1.0, 25) / run.expected.cost.mean()
    _, rehearsal = Prepared(run).rehearsal or ((), run.expected)
    past = run.trace.scores[run.history]
    without = _utility(run, run.expected.quality, prices, others)
    gained = np.zeros(2)
    for draw in range(draws):
        rows = _labelled(past[:, others], rehearsal.quality[:, others], labels, draw, how)
        seen = np.full(len(past), np.nan)
        seen[rows] = past[rows, arm]
        log_costs = np.log(run.trace.costs[run.history[rows]].mean(axis=0))[[*others, arm]]
        new = fit_cold_start(known, seen, log_costs)
        quality = run.expected.quality.copy()
        quality[:, arm] = np.clip(quality[:, others] @ new.weights + asked @ new.tilt + new.offset, 0.0, 1.0)
        full = _utility(run, run.expected.quality, prices, [*others, arm])
        gained += (_utility(run, quality, prices, [*others, arm]) - without, full - without)
    return gained


def _labelled(known: Float, expected: Float, labels: int, draw: int, how: str) -> NDArray[np.intp]:
    """(labels,) rows of history that the new arm answers."""
    rng = np.random.default_rng(draw)
    if how == "evenly":
        return rng.choice(len(expected), labels, replace=False)
    offered = rng.permutation(len(expected)) < len(expected) // 2
    if how == "c-optimal":
        return c_optimal_prompts(known, expected, count=labels, offered=offered)
    skills = Skills.of(expected[offered], SKILLS)(expected[offered])
    prior = Vector(np.eye(skills.shape[1])[0] * expected.mean(), 0.1 * np.eye(skills.shape[1]))
    return np.flatnonzero(offered)[d_optimal_prompts(skills, prior, count=labels, noise=0.15)]


def d_optimal_prompts(skills: Float, prior: Vector, *, count: int, noise: float) -> NDArray[np.intp]:
    """(count,) rows of skills (N, r + 1) that tell most about a new arm: greedy D-optimal design.

    Each step takes the row with the largest bᵀCb, the one that multiplies the determinant of the posterior precision
    most, and updates C by Sherman–Morrison. Raises: ValueError where there are fewer rows than asked.
    """
    if count > len(skills):
        raise ValueError(f"{count} prompts of {len(skills)} were asked for")
    covariance, chosen, free = prior.covariance.copy(), [], np.ones(len(skills), np.bool_)
    for _ in range(count):
        reach = skills @ covariance  # (N, r + 1)
        gains = np.where(free, np.einsum("nr,nr->n", reach, skills), -np.inf)
        best = int(np.argmax(gains))
        chosen.append(best)
        free[best] = False
        covariance -= np.outer(reach[best], reach[best]) / (noise + gains[best])
    return np.array(chosen, np.intp)


def _utility(run: Fitted, quality: Float, prices: Float, arms: list[int]) -> float:
    """Mean score − λ · cost of argmax q̂ − λĉ among these arms, averaged over prices."""
    rows, total = np.arange(len(quality)), 0.0
    for price in prices:
        chosen = np.array(arms)[np.argmax((quality - price * run.expected.cost)[:, arms], axis=1)]
        total += float((run.scores - price * run.costs)[rows, chosen].mean())
    return total / len(prices)


TABLES: dict[str, Callable[[int], Iterable[str]]] = {
    "performance": performance,
    "six": six,
    "budget": budget,
    "both": both,
    "tenants": tenants,
    "preference": preference,
    "orders": orders,
    "changes": changes,
    "cold_start": cold_start,
    "unseen": unseen,
    "speed": speed,
}

if __name__ == "__main__":
    main()
