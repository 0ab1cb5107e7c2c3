"""The metrics page: what was counted, in Prometheus' own format."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from typing import TypeVar

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from router.gateway.machine_pricing import LearnedPrice
from router.telemetry.counts import SECONDS, STATES, Labels, MetricCounts
from router.types import NANO_PER_USD, Balance

_BUDGET = ("scope", "period", "hard")
L = TypeVar("L", bound=Labels)

COUNTERS = {  # name -> what it counts, labels
    "requests": ("Requests to routes that call a model", ("code", "reason", "tenant_class")),
    "http_requests": ("Requests to all other routes", ("route", "method", "code")),
    "answers": ("Answers by model", ("model", "outcome")),
    "tokens": ("Tokens by model", ("model", "kind")),
    "cost_usd": ("Money settled, in USD", ("model", "tenant")),
    "decisions": ("Decisions drawn", ("model", "policy")),
    "doubts": ("Reports that did not fit", ("model", "kind")),
    "verdicts": ("Judges asked", ("source", "outcome")),
    "backend_failures": ("Failed attempts", ("model", "error")),
    "settlements_refused": ("Charged at their worst case", ("by",)),
    "refusals": ("Errors told", ("status", "code", "tenant")),
}
HISTOGRAMS = {
    "request_seconds": ("From a request's head at its socket to the last byte of its answer", ("path",)),
    "overhead_seconds": ("Of that, what neither the client nor the engine took, to the first byte", ("path",)),
    "stage_seconds": ("Time in each stage", ("stage",)),
    "loop_lag_seconds": ("How late the event loop comes to what is due", ()),
}


def text_of(tally: MetricCounts, prices: Mapping[str, LearnedPrice], more: Iterable[Metric] = ()) -> bytes:
    """The exposition format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Page([*_counted(tally), *_gauges(tally), *_prices(prices), *more]))
    return generate_latest(registry)


class _Page(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _counted(tally: MetricCounts) -> Iterator[Metric]:
    for name, (text, labels) in COUNTERS.items():
        family = CounterMetricFamily(f"pointsman_{name}", text, labels=labels)
        for values, count in tally.counters.get(name, {}).items():
            family.add_metric(values, count / NANO_PER_USD if name == "cost_usd" else count)
        yield family
    for name, (text, labels) in HISTOGRAMS.items():
        histogram = HistogramMetricFamily(f"pointsman_{name}", text, labels=labels)
        for values, row in tally.histograms.get(name, {}).items():
            histogram.add_metric(values, _buckets(row), sum_value=row[-1])
        yield histogram


def _gauges(tally: MetricCounts) -> Iterator[Metric]:
    yield GaugeMetricFamily("pointsman_holds", "Requests with a hold taken and not settled", value=tally.holds)
    up = {(name,): float(is_up) for name, is_up in tally.backends.items()}
    yield gauge("backend_up", "1 where the backend answers", ("backend",), up)
    states = {pair: float(STATES.index(state)) for pair, state in tally.breakers.items()}
    yield gauge("breaker_state", "Breakers: 0 closed, 1 half-open, 2 open", ("backend", "engine"), states)


def _prices(prices: Mapping[str, LearnedPrice]) -> Iterator[Metric]:
    by_kind = {(model, "prompt"): price.prompt_usd * 1e6 for model, price in prices.items()}
    by_kind |= {(model, "completion"): price.completion_usd * 1e6 for model, price in prices.items()}
    yield gauge("learned_price_usd", "USD per million tokens by measured machine time", ("model", "kind"), by_kind)
    answers = {(model,): float(price.answers) for model, price in prices.items()}
    yield gauge("learned_price_answers", "Answers it rests on", ("model",), answers)


def budget_gauges(balances: Iterable[Balance]) -> Iterator[Metric]:
    """What budgets allow, and what is spent and held of them."""
    found = {(each.budget.scope, period_of(each), str(each.budget.hard).lower()): each for each in balances}
    limits = {labels: each.budget.limit / NANO_PER_USD for labels, each in found.items()}
    spent = {labels: each.spent / NANO_PER_USD for labels, each in found.items()}
    held = {labels: each.held / NANO_PER_USD for labels, each in found.items()}
    resets = {labels: each.reset_ms / 1000 for labels, each in found.items()}
    yield gauge("budget_limit_usd", "The budget, in USD", _BUDGET, limits)
    yield gauge("budget_spent_usd", "Spent in its period, in USD", _BUDGET, spent)
    yield gauge("budget_held_usd", "Held for requests under way, in USD", _BUDGET, held)
    yield gauge("budget_reset_seconds", "Until something of it is free again", _BUDGET, resets)


def period_of(balance: Balance) -> str:
    """Its calendar period, or how long it rolls."""
    return balance.budget.calendar or f"{balance.budget.period_s}s"


def gauge(name: str, text: str, labels: tuple[str, ...], values: Mapping[L, float]) -> Metric:
    """A family of gauges."""
    family = GaugeMetricFamily(f"pointsman_{name}", text, labels=labels)
    for found, value in values.items():
        family.add_metric(found, value)
    return family


def _buckets(row: list[float]) -> list[tuple[str, float]]:
    """Cumulative, as Prometheus wants them."""
    return list(zip((*map(str, SECONDS), "+Inf"), accumulate(row[:-1]), strict=True))
