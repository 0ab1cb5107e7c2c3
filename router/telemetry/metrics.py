"""What a request counts: requests, tokens, cost, decisions, latencies, and what is down.

A request touches plain dictionaries only; exposition.py makes the metric families when somebody asks for the page.
"""

from __future__ import annotations

import re
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Mapping

from backends.errors import BackendError
from router.gateway.machine_pricing import LearnedPrice
from router.gateway.types import Decision, Metrics, ServedRequest, Timings
from router.telemetry.counts import SECONDS, MetricCounts, empty, see
from router.telemetry.exposition import text_of
from router.telemetry.recent import RecentCounts
from router.types import Principal, Spend

_CODE = re.compile(r"[a-z0-9_]{1,40}")  # an engine's own code may be anything
MOST_REFUSALS = 10_000  # sets of labels
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
QUIET = frozenset(  # routes that others ask every second: only their failures have a line
    ("/health", "/health/liveliness", "/health/liveness", "/health/readiness", "/ready", "/metrics")
)


class PrometheusMetrics(Metrics):
    """Counts into dictionaries by labels."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self.tally = tally = MetricCounts()
        self._answers = tally.counter("answers")
        self._requests = tally.counter("requests")
        self._tokens = tally.counter("tokens")
        self._cost = tally.counter("cost_usd")  # nano-USD
        self._decisions = tally.counter("decisions")
        self._doubts = tally.counter("doubts")
        self._verdicts = tally.counter("verdicts")
        self._failures = tally.counter("backend_failures")
        self._turned_away = tally.counter("refusals")
        self._lately = RecentCounts(tally.counter("refusals_by_minute"), clock=clock)
        self._http = tally.counter("http_requests")
        self._timings = tally.histograms.setdefault("stage_seconds", {})
        self._overhead = tally.histograms.setdefault("overhead_seconds", {})
        self._whole = tally.histograms.setdefault("request_seconds", {})
        self._lag = tally.histograms.setdefault("loop_lag_seconds", {(): empty()})[()]
        self.prices: Mapping[str, LearnedPrice] = {}  # by model
        self.refused: Mapping[str, int] = {}  # settlements that the store charged at their worst case, by who refused
        self.served_requests: deque[ServedRequest] | None = None  # for whoever writes a line of each

    def decided(self, decision: Decision) -> None:
        self._decisions[decision.record.model, decision.record.policy] += 1

    def held(self, change: int) -> None:
        self.tally.holds += change

    def settled(self, model: str, tenant: str, spend: Spend, timings: Timings) -> None:
        self._answers[model, "estimated" if spend.estimated else "settled"] += 1
        self._tokens[model, "prompt"] += spend.prompt_tokens
        self._tokens[model, "completion"] += spend.completion_tokens
        self._cost[model, tenant] += spend.cost
        for stage, seconds in timings.spent.items():
            row = self._timings.get((stage,))
            if row is None:
                row = self._timings[stage,] = empty()
            row[bisect_left(SECONDS, seconds)] += 1
            row[-1] += seconds

    def served(self, request: ServedRequest) -> None:
        reason = request.reason if _CODE.fullmatch(request.reason) else "other"
        self._requests[str(request.status), reason, tenant_class(request.principal)] += 1
        for rows, seconds in ((self._whole, request.seconds), (self._overhead, request.overhead_s)):
            if seconds is not None:
                row = rows.get((request.path,))
                if row is None:
                    row = rows[request.path,] = empty()
                row[bisect_left(SECONDS, seconds)] += 1
                row[-1] += seconds
        if self.served_requests is not None:
            self.served_requests.append(request)

    def answered(self, request: ServedRequest, route: str) -> None:
        """A request that calls no model; `route` is its pattern."""
        method = request.method if request.method in METHODS else "other"
        self._http[route, method, str(request.status)] += 1
        if self.served_requests is not None and not (request.status < 400 and route in QUIET):
            self.served_requests.append(request)

    def refused_early(self, status: int, code: str, path: str) -> None:
        """What was refused before it was a request."""
        self.turned_away(status, code, "")
        if self.served_requests is not None:
            request = ServedRequest(time.time(), "-", 0.0, path or "-", "-", status, code, None)
            self.served_requests.append(request)

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
        self._lately.see(labels, other=(labels[0], "other", ""))

    def lagged(self, seconds: float) -> None:
        """How much later than it was due the loop came to something."""
        see({(): self._lag}, (), seconds)

    def backend(self, name: str, *, up: bool, breakers: Mapping[str, str] | None = None) -> None:
        """What the health loop saw: whether a backend answers, and the state of each of its engines' breakers."""
        self.tally.backends[name] = up
        others = {pair: state for pair, state in self.tally.breakers.items() if pair[0] != name}
        self.tally.breakers = others | {(name, engine): state for engine, state in (breakers or {}).items()}

    def learned_prices(self, prices: Mapping[str, LearnedPrice]) -> None:
        """What tokens cost on machines whose price is known, by model."""
        self.prices = prices

    def own(self) -> MetricCounts:
        """What this worker counted, as it is now."""
        self.tally.counters["settlements_refused"] = {(by,): count for by, count in self.refused.items()}
        return self.tally

    def text(self) -> bytes:
        """The exposition format, of this worker alone."""
        return text_of(self.own(), self.prices)


def tenant_class(principal: Principal | None) -> str:
    """Who asked, in four words: labels stay few however many tenants there are."""
    if principal is None:
        return "unknown"
    if principal.admin:
        return "admin"
    return "anonymous" if principal.key_id == "anonymous" else "tenant"
