"""Prometheus: requests, tokens, cost, decisions, stage latencies, and what is down."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from backends.errors import BackendError
from router.gateway.nouns import Decision, Meter, Stages
from router.types import NANO_PER_USD, Spend

_SECONDS = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 30, 120)


class PrometheusMeter(Meter):
    """Counts into one registry; children are looked up once and kept, since labels() costs more than inc()."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self._requests = Counter(
            "pointsman_requests_total", "Answers by model", ["model", "outcome"], registry=registry
        )
        self._tokens = Counter("pointsman_tokens_total", "Tokens by model", ["model", "kind"], registry=registry)
        self._cost = Counter(
            "pointsman_cost_usd_total", "Money settled, in USD", ["model", "tenant"], registry=registry
        )
        self._decisions = Counter(
            "pointsman_decisions_total", "Decisions drawn", ["model", "policy"], registry=registry
        )
        self._failures = Counter(
            "pointsman_backend_failures_total", "Failed attempts", ["model", "error"], registry=registry
        )
        self._stages = Histogram(
            "pointsman_stage_seconds", "Time in each stage", ["stage"], buckets=_SECONDS, registry=registry
        )
        self._holds = Gauge("pointsman_holds", "Requests with a hold taken and not settled", registry=registry)
        self._backends = Gauge("pointsman_backend_up", "1 where the backend answers", ["backend"], registry=registry)
        self._known: dict[tuple[str, ...], object] = {}

    def decided(self, decision: Decision) -> None:
        model = decision.models[decision.choice].name
        self._counter(self._decisions, model, decision.policy).inc()
        self._holds.inc()

    def settled(self, model: str, tenant: str, spend: Spend, stages: Stages) -> None:
        self._holds.dec()
        self._counter(self._requests, model, "estimated" if spend.estimated else "settled").inc()
        self._counter(self._tokens, model, "prompt").inc(spend.prompt_tokens)
        self._counter(self._tokens, model, "completion").inc(spend.completion_tokens)
        self._counter(self._cost, model, tenant).inc(spend.cost / NANO_PER_USD)
        for stage, seconds in stages.spent.items():
            self._histogram(stage).observe(seconds)

    def failed(self, model: str, error: BackendError) -> None:
        self._counter(self._failures, model, type(error).__name__).inc()

    def backend(self, name: str, *, up: bool) -> None:
        """What the health loop saw."""
        self._backends.labels(name).set(up)

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self.registry)

    def _counter(self, family: Counter, *labels: str) -> Counter:
        key = (family._name, *labels)
        child = self._known.get(key)
        if not isinstance(child, Counter):
            child = self._known[key] = family.labels(*labels)
        return child

    def _histogram(self, stage: str) -> Histogram:
        child = self._known.get((stage,))
        if not isinstance(child, Histogram):
            child = self._known[(stage,)] = self._stages.labels(stage)
        return child
