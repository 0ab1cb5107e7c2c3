"""Prometheus: requests, tokens, cost, decisions, stage latencies, and what is down.

A request touches plain dictionaries only; the metric families are made when somebody asks for the page.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import accumulate

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from backends.errors import BackendError
from router.gateway.machine_pricing import LearnedPrice
from router.gateway.types import Decision, Metrics, Timings
from router.types import NANO_PER_USD, Spend

_SECONDS = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 30, 120)
_STATES = ("closed", "half-open", "open")
_CODE = re.compile(r"[a-z0-9_]{1,40}")  # an engine's own code may be anything
MOST_REFUSALS = 10_000  # sets of labels
_Pair = tuple[str, str]


class PrometheusMeter(Metrics):
    """Counts into dictionaries by labels, and is its own collector."""

    def __init__(self) -> None:
        self._requests: Counter[_Pair] = Counter()  # model, outcome
        self._tokens: Counter[_Pair] = Counter()  # model, kind
        self._cost: Counter[_Pair] = Counter()  # model, tenant; nano-USD
        self._decisions: Counter[_Pair] = Counter()  # model, policy
        self._doubts: Counter[_Pair] = Counter()  # model, kind
        self._verdicts: Counter[_Pair] = Counter()  # source, outcome
        self._failures: Counter[_Pair] = Counter()  # model, error
        self._stages: dict[str, list[float]] = {}  # a count for each bucket, one beyond the last, and the sum
        self._turned_away: Counter[tuple[str, str, str]] = Counter()  # status, code, tenant
        self._lag = [0.0] * (len(_SECONDS) + 2)
        self._holds = 0
        self._backends: dict[str, bool] = {}
        self._breakers: dict[_Pair, str] = {}  # backend, engine -> state
        self._rented: Mapping[str, LearnedPrice] = {}  # by model
        self.refused: Mapping[
            str, int
        ] = {}  # settlements that the store charged at their worst case, by who refused them
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Page(self))

    def decided(self, decision: Decision) -> None:
        self._decisions[decision.record.model, decision.record.policy] += 1
        self._holds += 1

    def settled(self, model: str, tenant: str, spend: Spend, stages: Timings) -> None:
        self._holds -= 1
        self._requests[model, "estimated" if spend.estimated else "settled"] += 1
        self._tokens[model, "prompt"] += spend.prompt_tokens
        self._tokens[model, "completion"] += spend.completion_tokens
        self._cost[model, tenant] += spend.cost
        for stage, seconds in stages.spent.items():
            counts = self._stages.get(stage)
            if counts is None:
                counts = self._stages[stage] = [0.0] * (len(_SECONDS) + 2)
            counts[bisect_left(_SECONDS, seconds)] += 1
            counts[-1] += seconds

    def doubted(self, model: str, kind: str) -> None:
        self._doubts[model, kind] += 1

    def judged(self, source: str, outcome: str) -> None:
        self._verdicts[source, outcome if _CODE.fullmatch(outcome) else "other"] += 1

    def failed(self, model: str, error: BackendError) -> None:
        self._failures[model, type(error).__name__] += 1

    def turned_away(self, status: int, code: str, tenant: str) -> None:
        labels = str(status), code if _CODE.fullmatch(code) else "other", tenant
        if labels not in self._turned_away and len(self._turned_away) >= MOST_REFUSALS:
            labels = str(status), "other", ""
        self._turned_away[labels] += 1

    def lagged(self, seconds: float) -> None:
        """How much later than it was due the loop came to something."""
        self._lag[bisect_left(_SECONDS, seconds)] += 1
        self._lag[-1] += seconds

    def backend(self, name: str, *, up: bool, breakers: Mapping[str, str] | None = None) -> None:
        """What the health loop saw: whether a backend answers, and the state of each of its engines' breakers."""
        self._backends[name] = up
        others = {pair: state for pair, state in self._breakers.items() if pair[0] != name}
        self._breakers = others | {(name, engine): state for engine, state in (breakers or {}).items()}

    def rented(self, prices: Mapping[str, LearnedPrice]) -> None:
        """What tokens cost on machines whose price is known, by model."""
        self._rented = prices

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self._registry)

    def families(self) -> Iterator[Metric]:
        """What was counted, as Prometheus wants it."""
        yield _counter("pointsman_requests", "Answers by model", ("model", "outcome"), self._requests)
        yield _counter("pointsman_tokens", "Tokens by model", ("model", "kind"), self._tokens)
        usd = {labels: nano / NANO_PER_USD for labels, nano in self._cost.items()}
        yield _counter("pointsman_cost_usd", "Money settled, in USD", ("model", "tenant"), usd)
        yield _counter("pointsman_decisions", "Decisions drawn", ("model", "policy"), self._decisions)
        yield _counter("pointsman_doubts", "Reports that did not fit", ("model", "kind"), self._doubts)
        yield _counter("pointsman_verdicts", "Judges asked", ("source", "outcome"), self._verdicts)
        yield _counter("pointsman_backend_failures", "Failed attempts", ("model", "error"), self._failures)
        refused = CounterMetricFamily("pointsman_settlements_refused", "Charged at their worst case", labels=["by"])
        for by, count in self.refused.items():
            refused.add_metric([by], count)
        yield refused
        away = CounterMetricFamily("pointsman_refusals", "Errors told", labels=["status", "code", "tenant"])
        for triple, count in self._turned_away.items():
            away.add_metric(triple, count)
        yield away
        yield self._histogram()
        lag = HistogramMetricFamily("pointsman_loop_lag_seconds", "How late the event loop comes to what is due")
        lag.add_metric([], _buckets(self._lag), sum_value=self._lag[-1])
        yield lag
        yield GaugeMetricFamily("pointsman_holds", "Requests with a hold taken and not settled", value=self._holds)
        up = GaugeMetricFamily("pointsman_backend_up", "1 where the backend answers", labels=["backend"])
        for name, is_up in self._backends.items():
            up.add_metric([name], float(is_up))
        yield up
        closed = "Breakers: 0 closed, 1 half-open, 2 open"
        breakers = GaugeMetricFamily("pointsman_breaker_state", closed, labels=["backend", "engine"])
        for pair, state in self._breakers.items():
            breakers.add_metric(pair, float(_STATES.index(state)))
        yield breakers
        yield from self._prices()

    def _prices(self) -> Iterator[Metric]:
        learned = "USD per million tokens by measured machine time"
        prices = GaugeMetricFamily("pointsman_learned_price_usd", learned, labels=["model", "kind"])
        answers = GaugeMetricFamily("pointsman_learned_price_answers", "Answers it rests on", labels=["model"])
        for model, price in self._rented.items():
            prices.add_metric([model, "prompt"], price.prompt_usd * 1e6)
            prices.add_metric([model, "completion"], price.completion_usd * 1e6)
            answers.add_metric([model], price.answers)
        yield from (prices, answers)

    def _histogram(self) -> HistogramMetricFamily:
        family = HistogramMetricFamily("pointsman_stage_seconds", "Time in each stage", labels=["stage"])
        for stage, counts in self._stages.items():
            family.add_metric([stage], _buckets(counts), sum_value=counts[-1])
        return family


class _Page(Collector):
    def __init__(self, meter: PrometheusMeter) -> None:
        self._meter = meter

    def collect(self) -> Iterator[Metric]:
        return self._meter.families()


def _buckets(counts: list[float]) -> list[tuple[str, float]]:
    """Cumulative, as Prometheus wants them."""
    return list(zip((*map(str, _SECONDS), "+Inf"), accumulate(counts[:-1]), strict=True))


def _counter(name: str, text: str, labels: tuple[str, str], counts: Mapping[_Pair, float]) -> CounterMetricFamily:
    family = CounterMetricFamily(name, text, labels=labels)
    for pair, count in counts.items():
        family.add_metric(pair, count)
    return family
