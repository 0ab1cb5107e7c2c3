"""`pointsman replay`: policies and reference routers over a trace, over several seeds, as tables, JSON and figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import yaml

from evaluation.rivals import ParetoBandit
from evaluation.traces import Sample, Trace, embed_split
from policies import baselines
from policies.intervals import Interval, interval_of
from policies.pacers.remaining import REFUSE
from policies.registry import BLIND, NAMES, build, options_of
from policies.replay import (
    BudgetGate,
    Frontier,
    Result,
    Rows,
    admitted,
    aiq,
    apgr,
    cpt,
    judge,
    split,
    split_budget,
    split_weights,
    sweep,
    total_budget,
    upper_hull,
    zero_router,
)
from policies.simulation import FixedNeighbours, PolicyRun, contexts, simulate
from policies.types import Arm, Estimates, Float, Policy
from router.errors import SettingsError

BASELINES = ("random", "greedy-perf", "greedy-cost", "knn-perf", "knn-cost", "batch-split", "best-single")
OPTIMA = ("approx-opt", "true-opt")
RIVAL = "paretobandit"
NEAR, WIDE = 5, 100  # neighbours of the approximate and of the exact reference estimates


@dataclass(frozen=True, slots=True)
class Contender:
    """A policy to replay: a name of NAMES with options, or a rival."""

    label: str
    policy: str
    options: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Setting:
    """What is replayed."""

    contenders: tuple[Contender, ...]
    stream: int  # queries routed; the rest of the trace is history
    seeds: tuple[int, ...] = (0, 1, 2)
    split: str = "weighted"  # a rule of split_weights, or "global" for one budget
    factor: float = 1.0  # of the cost of sending everything to the cheapest model

    def __post_init__(self) -> None:
        labels = [each.label for each in self.contenders]
        if len(set(labels)) < len(labels):
            raise SettingsError(f"policies must differ in name, there are {', '.join(labels)}", param="policy")
        if not self.seeds:
            raise SettingsError("there are no seeds, expected at least one", param="seeds")
        if not 0.0 < self.factor < float("inf"):
            raise SettingsError(f"factor is {self.factor}, expected > 0", param="factor")


@dataclass(frozen=True, slots=True)
class SpendCurve:
    """Money against queries for the figure, of the first seed."""

    budget: float  # USD
    curves: dict[str, Float]  # label -> (N,) USD after each query


@dataclass(frozen=True, slots=True)
class ReplayReport:
    """What a replay measured."""

    trace: str
    setting: Setting
    budget: dict[str, dict[str, Interval]]  # label -> metric -> over seeds
    preference: dict[str, dict[str, Interval]]
    frontiers: dict[str, Frontier]  # label -> of the first seed
    spending: SpendCurve


def contender(argument: str) -> Contender:
    """Of `--policy`: a name, or a YAML file with `policy` and `options`.

    Raises: SettingsError where it is neither.
    """
    if argument in (*NAMES, RIVAL):
        return Contender(argument, argument)
    path = Path(argument)
    if not path.is_file():
        raise SettingsError(f"{argument!r} is neither a file nor one of {', '.join((*NAMES, RIVAL))}", param="policy")
    try:
        written = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is no YAML: {error}", param=str(path)) from error
    name, options = _of_settings(written)
    if name not in NAMES:
        raise SettingsError(f"{path}: expected `policy: {{name: NAME, options: {{NAME: …}}}}`", param=f"{path}:policy")
    if not isinstance(options, dict):
        raise SettingsError(f"{path}: options is {options!r}, expected options by name", param=f"{path}:options")
    return Contender(path.stem, name, dict(options))


def _of_settings(written: object) -> tuple[str, object]:
    """The policy that a settings file names, and its options."""
    section = written.get("policy") if isinstance(written, dict) else None
    if not isinstance(section, dict):
        return "", {}
    name, by_name = str(section.get("name", "")), section.get("options") or {}
    return name, (by_name.get(name) or {}) if isinstance(by_name, dict) else by_name


def stages(setting: Setting) -> int:
    """How often `on_progress` of replay() is called."""
    return len(setting.seeds) * (1 + len(BASELINES) + len(OPTIMA) + 2 * len(setting.contenders))


def replay(trace: Trace, setting: Setting, *, on_progress: Callable[[str], None]) -> ReplayReport:
    """Every contender and reference over every seed; `on_progress(what)` hears of each part done.

    Raises: SettingsError where the trace is too small for the stream, an option is unknown, or a policy needs a package
    that is not installed.
    """
    budget: dict[str, dict[str, list[float]]] = {}
    preference: dict[str, dict[str, list[float]]] = {}
    frontiers: dict[str, Frontier] = {}
    spending = SpendCurve(0.0, {})
    for each in setting.contenders:
        _check(each, trace)
    for order, seed in enumerate(setting.seeds):
        sample = _sample(trace, setting, seed)
        on_progress(f"seed {seed}: embedded")
        budgets = SeedBudgets.of(sample, setting, seed)
        for label, result, run in _budget_runs(sample, setting, budgets, seed):
            _note(budget, label, _budget_metrics(result))
            on_progress(f"seed {seed}: {label}")
            if order == 0 and run is not None:
                spending.curves[label] = run.spent
        _relate(budget)
        if order == 0:
            spending = SpendCurve(budgets.total, spending.curves)
        for label, metrics, frontier in _preference_runs(sample, setting, seed):
            _note(preference, label, metrics)
            on_progress(f"seed {seed}: {label}")
            if order == 0:
                frontiers[label] = frontier
    return ReplayReport(trace.name, setting, _over(budget), _over(preference), frontiers, spending)


def _check(each: Contender, trace: Trace) -> None:
    """Before minutes are spent. Raises: SettingsError where the policy cannot be built, or is fixed to nobody."""
    _built(each, trace.arms, SeedBudgets(None, float("inf"), len(trace.models)), seed=0, queries=1)
    arm = each.options.get("arm")
    if arm is not None and arm not in trace.models:
        raise SettingsError(f"{each.label} is fixed to {arm!r}; there are {', '.join(trace.models)}", param="arm")


def _sample(trace: Trace, setting: Setting, seed: int) -> Sample:
    try:
        return embed_split(trace, *split(len(trace), stream=setting.stream, seed=seed))
    except ValueError as error:
        raise SettingsError(str(error), param="stream") from error


@dataclass(frozen=True, slots=True)
class SeedBudgets:
    """The budgets of one seed."""

    by_model: Float | None  # (M,) USD, or None for one budget
    total: float  # USD
    arms: int

    @classmethod
    def of(cls, sample: Sample, setting: Setting, seed: int) -> SeedBudgets:
        """By the setting's factor and split; weights come from history. Raises: SettingsError."""
        costs, history = sample.stream.costs, sample.history
        total = total_budget(costs, setting.factor)
        if not total > 0.0:
            raise SettingsError("the cheapest model costs nothing here, and so would be any budget in its multiples")
        if setting.split == "global":
            return cls(None, total, costs.shape[1])
        quality, cost = np.nanmean(history.scores, axis=0), np.nanmean(history.costs, axis=0)
        try:
            weights = split_weights(setting.split, quality, cost, seed=seed)
        except ValueError as error:
            raise SettingsError(str(error), param="split") from error
        return cls(split_budget(total, weights), total, costs.shape[1])

    @property
    def shared(self) -> float:
        """The one budget where there is one, else infinite."""
        return self.total if self.by_model is None else float("inf")

    def gate(self) -> BudgetGate:
        return BudgetGate(self.arms, budgets=self.by_model, total=self.shared)


Played = tuple[str, Result, PolicyRun | None]


def _budget_runs(sample: Sample, setting: Setting, budgets: SeedBudgets, seed: int) -> Iterator[Played]:
    stream = sample.stream
    for label, choices in _reference_choices(sample, budgets, seed):
        served = admitted(choices, stream.costs, budgets.gate())
        yield label, judge(choices, served, scores=stream.scores, costs=stream.costs), None
    for each in setting.contenders:
        policy = _built(each, stream.arms, budgets, seed=seed, queries=len(stream))
        policy.refit(sample.history)
        run = simulate(
            policy,
            stream,
            FixedNeighbours(stream, sample.history),
            gate=budgets.gate(),
            rng=np.random.default_rng(seed),
            drops=each.policy not in {"port", RIVAL, *BLIND},
        )
        yield each.label, run.result, run


def _built(each: Contender, arms: tuple[Arm, ...], budgets: SeedBudgets, *, seed: int, queries: int) -> Policy:
    """The policy with the horizon and budgets it asks for. Raises: SettingsError."""
    if each.policy == RIVAL:
        return ParetoBandit(budget_usd=budgets.total / queries, seed=seed)
    offered: dict[str, object] = {"horizon": queries, "budget": budgets.shared, "when_short": REFUSE}
    if budgets.by_model is not None:
        offered["budgets"] = dict(zip((arm.name for arm in arms), budgets.by_model.tolist(), strict=True))
    known = options_of(each.policy)
    try:
        return build(each.policy, arms, {**{k: v for k, v in offered.items() if k in known}, **each.options})
    except ValueError as error:
        raise SettingsError(str(error), param="policy") from error


def _reference_choices(sample: Sample, budgets: SeedBudgets, seed: int) -> Iterator[tuple[str, Rows]]:
    stream, history = sample.stream, sample.history
    similarity: Float = (stream.embeddings @ history.embeddings.T).astype(np.float64)
    near, wide = (
        (
            baselines.neighbour_means(similarity, history.scores, k=k),
            baselines.neighbour_means(similarity, history.costs, k=k),
        )
        for k in (NEAR, WIDE)
    )

    def greedy(worth: Float, cost: Float) -> Rows:
        return baselines.greedy(worth, cost, costs=stream.costs, gate=budgets.gate())

    yield "random", baselines.uniform(len(stream), budgets.arms, seed=seed)
    yield "greedy-perf", greedy(near[0], near[1])
    yield "greedy-cost", greedy(-near[1], near[1])
    yield "knn-perf", greedy(wide[0], wide[1])
    yield "knn-cost", greedy(-wide[1], wide[1])
    yield "batch-split", baselines.batch_split(near[0], near[1], budgets=budgets.by_model, total=budgets.shared)
    yield "best-single", _best_single(sample, budgets)
    yield "approx-opt", baselines.optimum(near[0], near[1], budgets=budgets.by_model, total=budgets.shared)
    yield "true-opt", baselines.optimum(stream.scores, stream.costs, budgets=budgets.by_model, total=budgets.shared)


def _best_single(sample: Sample, budgets: SeedBudgets) -> Rows:
    """(N,) everything to the model that history says earns most before its budget ends."""
    quality, cost = np.nanmean(sample.history.scores, axis=0), np.nanmean(sample.history.costs, axis=0)
    limits = np.full(budgets.arms, budgets.total) if budgets.by_model is None else budgets.by_model
    affordable = np.minimum(limits / cost, len(sample.stream))
    return np.full(len(sample.stream), int(np.argmax(quality * affordable)))


def _budget_metrics(result: Result) -> dict[str, float]:
    return {
        "performance": result.performance,
        "cost_usd": result.cost,
        "performance_per_usd": result.performance_per_usd,
        "throughput": float(result.throughput),
    }


def _relate(noted: dict[str, dict[str, list[float]]]) -> None:
    """Add each label's last performance as a share of both optima of the same seed."""
    for optimum in OPTIMA:
        reference = noted[optimum]["performance"][-1]
        for metrics in noted.values():
            share = metrics["performance"][-1] / reference if reference > 0.0 else float("nan")
            metrics.setdefault(f"of_{optimum.replace('-', '_')}", []).append(share)


def _preference_runs(sample: Sample, setting: Setting, seed: int) -> Iterator[tuple[str, dict[str, float], Frontier]]:
    stream = sample.stream
    zero = zero_router(stream.scores, stream.costs)
    yield "single models", {"aiq": aiq(zero, stream.costs)}, zero
    for each in setting.contenders:
        if each.policy in BLIND or each.policy == RIVAL:
            continue
        budgets = SeedBudgets(None, float("inf"), len(stream.arms))
        expected = _expected(_built(each, stream.arms, budgets, seed=seed, queries=len(stream)), sample)
        frontier = sweep(expected.quality, expected.cost, scores=stream.scores, costs=stream.costs)
        yield each.label, {"aiq": aiq(frontier, stream.costs)} | _two_models(expected, sample), frontier
    truth = sweep(stream.scores, stream.costs, scores=stream.scores, costs=stream.costs)
    yield "oracle", {"aiq": aiq(truth, stream.costs)}, truth


def _expected(policy: Policy, sample: Sample) -> Estimates:
    """(N, M) what the policy expects of the whole stream, an explorer's bonus included, before any answer."""
    policy.refit(sample.history)
    asked = contexts(sample.stream, FixedNeighbours(sample.stream, sample.history))
    proposals = [policy.propose(context) for context in asked]
    return Estimates(
        quality=np.array([each.estimates.quality for each in proposals]),
        sigma=np.array([each.estimates.sigma for each in proposals]),
        cost=np.array([each.estimates.cost for each in proposals]),
    )


def _two_models(expected: Estimates, sample: Sample) -> dict[str, float]:
    """APGR and CPT (RouteLLM, arXiv 2406.18665) where the trace has two models; the strong one costs more."""
    stream = sample.stream
    if len(stream.arms) != 2:
        return {}
    weak, strong = np.argsort(stream.costs.mean(axis=0))
    wanted = expected.quality[:, strong] - expected.quality[:, weak]
    truth = {"weak": stream.scores[:, weak], "strong": stream.scores[:, strong]}
    return {
        "apgr": apgr(wanted, **truth),
        "cpt_50": cpt(wanted, **truth, share=0.5),
        "cpt_80": cpt(wanted, **truth, share=0.8),
    }


def _note(noted: dict[str, dict[str, list[float]]], label: str, metrics: Mapping[str, float]) -> None:
    for metric, value in metrics.items():
        noted.setdefault(label, {}).setdefault(metric, []).append(value)


def _over(noted: dict[str, dict[str, list[float]]]) -> dict[str, dict[str, Interval]]:
    return {
        label: {metric: interval_of(np.array(values)) for metric, values in metrics.items()}
        for label, metrics in noted.items()
    }


def as_json(report: ReplayReport) -> dict[str, object]:
    """Everything of a report but the spending curves, as plain values."""
    return {
        "trace": report.trace,
        "setting": asdict(report.setting),
        "budget": {label: _plain(metrics) for label, metrics in report.budget.items()},
        "preference": {label: _plain(metrics) for label, metrics in report.preference.items()},
        "frontiers": {
            label: {"costs": hull.costs.tolist(), "qualities": hull.qualities.tolist()}
            for label, hull in ((label, upper_hull(each)) for label, each in report.frontiers.items())
        },
    }


def _plain(metrics: Mapping[str, Interval]) -> dict[str, object]:
    return {metric: asdict(interval) for metric, interval in metrics.items()}


def default_stream(rows: int) -> int:
    """How many queries to route of a trace of this many rows: two in five, at most 5,000."""
    return max(1, min(5_000, 2 * rows // 5))


def rows_of(table: Mapping[str, Mapping[str, Interval]], columns: Sequence[str]) -> list[list[str]]:
    """Cells of a printed table: a label, then `mean ± half-width` for each column, blank where not measured."""
    return [
        [label, *(_cell(metrics[column]) if column in metrics else "" for column in columns)]
        for label, metrics in table.items()
    ]


def _cell(interval: Interval) -> str:
    half = interval.high - interval.mean
    digits = 4 if abs(interval.mean) < 2 else 1
    return f"{interval.mean:.{digits}f} ± {half:.{digits}f}"
