"""The metrics page: what was counted, in Prometheus' own format."""

from prometheus_client.parser import text_string_to_metric_families

from router.gateway.types import Timings
from router.telemetry.metrics import PrometheusMetrics
from router.types import NanoUsd, Spend


def samples(metrics: PrometheusMetrics) -> dict[tuple[str, ...], float]:
    """Value by name and label values, these in alphabetical order."""
    found = {}
    for family in text_string_to_metric_families(metrics.text().decode()):
        for sample in family.samples:
            found[sample.name, *sorted(sample.labels.values())] = sample.value
    return found


def test_an_answer_is_counted_with_its_tokens_and_its_money() -> None:
    metrics = PrometheusMetrics()
    for _ in range(3):
        metrics.settled("small", "acme", Spend(NanoUsd(2_000), 10, 5, "settled"), Timings())
    found = samples(metrics)
    assert found["pointsman_answers_total", "settled", "small"] == 3
    assert found["pointsman_tokens_total", "prompt", "small"] == 30
    assert found["pointsman_tokens_total", "completion", "small"] == 15
    assert found["pointsman_cost_usd_total", "acme", "small"] == 6e-6


def test_a_stage_falls_into_every_bucket_it_fits_in() -> None:
    metrics, timings = PrometheusMetrics(), Timings()
    timings.spent = {"embed": 0.0003, "relay": 500.0}
    metrics.settled("small", "acme", Spend(NanoUsd(0), 0, 0, "settled"), timings)
    found = samples(metrics)
    bucket = "pointsman_stage_seconds_bucket"
    assert [found[bucket, *sorted(["embed", bound])] for bound in ("0.00025", "0.0005", "120", "+Inf")] == [0, 1, 1, 1]
    assert [found[bucket, *sorted(["relay", bound])] for bound in ("120", "+Inf")] == [0, 1]
    assert found["pointsman_stage_seconds_sum", "relay"] == 500.0


def test_breakers_are_reported_by_engine_and_forgotten_with_it() -> None:
    metrics = PrometheusMetrics()
    metrics.backend("vllm", up=True, breakers={"http://a": "open", "http://b": "closed"})
    found = samples(metrics)
    assert found["pointsman_breaker_state", "http://a", "vllm"] == 2
    assert found["pointsman_breaker_state", "http://b", "vllm"] == 0
    metrics.backend("vllm", up=True, breakers={"http://b": "half-open"})
    found = samples(metrics)
    assert ("pointsman_breaker_state", "http://a", "vllm") not in found
    assert found["pointsman_breaker_state", "http://b", "vllm"] == 1


def test_settlements_that_were_refused_are_counted_by_who_refused_them() -> None:
    metrics = PrometheusMetrics()
    assert ("pointsman_settlements_refused_total", "redis") not in samples(metrics)
    metrics.refused = {"redis": 2, "usage": 1}
    found = samples(metrics)
    assert found["pointsman_settlements_refused_total", "redis"] == 2
    assert found["pointsman_settlements_refused_total", "usage"] == 1
