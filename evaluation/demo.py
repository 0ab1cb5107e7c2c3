"""`pointsman demo`: graded prompts through a gateway over HTTP with the official OpenAI client, and what came of them.

Fails with a plain message where no gateway answers or the key is refused. Every figure is measured on the spot: the
same prompts are also sent to the largest model, the smallest one and a random one.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from evaluation.skills import Item, grade, sample
from router.errors import PointsmanError
from router.settings.extras import install_line

WORKLOAD = ("plural", "tool", "sorting", "extension", "sentiment", "partcode", "gap", "topic")
"""Eight kinds of request, as one application would send them: some that the smallest model does, some that none but the
largest does. With all thirty-four kinds a few hundred prompts are too few of each to learn from."""
TRIED = 8  # prompts, to know how long all will take
LANES = 4  # requests under way at once: enough to fill a batch, few enough that feedback arrives while it matters


@dataclass(frozen=True, slots=True)
class DemoResult:
    """One graded answer."""

    model: str
    score: float  # in [0, 1]
    cost: float  # USD
    latency_ms: float


class DemoClient:
    """The official OpenAI client, and the gateway's own feedback route through it."""

    def __init__(self, url: str, key: str) -> None:
        try:
            import openai  # noqa: PLC0415  (an extra: the gateway itself never needs it)
        except ImportError:
            raise PointsmanError(f"the demo needs the OpenAI client: {install_line(['demo'])}") from None
        self._openai = openai.OpenAI(base_url=f"{url.rstrip('/')}/v1", api_key=key, max_retries=2, timeout=120)

    def models(self) -> list[dict[str, Any]]:
        """Real models, without aliases."""
        listed = self._openai.models.list().data
        return [model.model_dump() for model in listed if model.owned_by != "pointsman"]

    def ask(self, item: Item, model: str, *, preference: float, judge: bool) -> DemoResult:
        """One prompt, graded; the grade goes back as feedback where `judge`."""
        started = time.perf_counter()
        raw = self._openai.chat.completions.with_raw_response.create(
            model=model,
            messages=[{"role": "user", "content": item.prompt}],
            temperature=0,
            extra_body={"routing": {"preference": preference}},
        )
        latency_ms = (time.perf_counter() - started) * 1000
        score = grade(item, raw.parse().choices[0].message.content or "")
        if judge:
            body = {"decision_id": raw.headers["x-pointsman-decision-id"], "score": score}
            self._openai.post("/feedback", cast_to=object, body=body)
        return DemoResult(
            raw.headers["x-pointsman-model"], score, float(raw.headers["x-pointsman-cost-usd"]), latency_ms
        )


def run(
    url: str, key: str, *, prompts: int, preference: float, seed: int, console: Console, skills: Sequence[str] | None
) -> None:
    """Send `prompts` graded prompts of these skills (None: all) through the gateway and print the tables."""
    client = DemoClient(url, key)
    items = sample(prompts, rng=np.random.default_rng(seed), split="test", skills=skills)
    models = client.models()
    largest, smallest = _ends(models)
    generator = np.random.default_rng(seed + 1)
    anyone = [str(models[i]["id"]) for i in generator.integers(len(models), size=prompts)]
    console.print(announced(prompts, expected_s(client, items, (smallest, largest), prompts)))
    with _progress(console) as progress:

        def through(title: str, names: Sequence[str], *, judge: bool) -> list[DemoResult]:
            task = progress.add_task(title, total=prompts)
            done: Callable[[], None] = lambda: progress.advance(task)  # noqa: E731
            return _send(client, items, names, preference=preference, judge=judge, done=done)

        routed = through("routed", ["auto"] * prompts, judge=True)
        others = {
            f"always {largest}": through(f"always {largest}", [largest] * prompts, judge=False),
            f"always {smallest}": through(f"always {smallest}", [smallest] * prompts, judge=False),
            "random": through("random", anyone, judge=False),
        }
    console.print(_by_model(routed))
    console.print(_against(routed, others))
    console.print(_learning(routed))


def expected_s(client: DemoClient, items: Sequence[Item], ends: tuple[str, str], prompts: int) -> float:
    """About how long all of it takes, by how long a few prompts did on the smallest and the largest model."""
    took = []
    for name in ends:
        begun = time.perf_counter()
        _send(client, items[:TRIED], [name] * len(items[:TRIED]), preference=1.0, judge=False, done=lambda: None)
        took.append((time.perf_counter() - begun) / len(items[:TRIED]))
    small, large = took
    return prompts * (small + large + 2 * (small + large) / 2)  # routed and random lie between the two


def announced(prompts: int, seconds: float) -> str:
    """What is about to happen."""
    about = f"{max(5, round(seconds / 5) * 5)} s" if seconds < 90 else f"{seconds / 60:.0f} minutes"
    return (
        f"{prompts} prompts, each four times (routed, the largest, the smallest, a random model): about {about} here"
        f"\nshorter: --prompts 100 (make demo ARGS='--prompts 100')"
    )


def _send(
    client: DemoClient,
    items: Sequence[Item],
    names: Sequence[str],
    *,
    preference: float,
    judge: bool,
    done: Callable[[], None],
) -> list[DemoResult]:
    def one(pair: tuple[Item, str]) -> DemoResult:
        result = client.ask(*pair, preference=preference, judge=judge)
        done()
        return result

    with ThreadPoolExecutor(LANES) as lanes:
        return list(lanes.map(one, zip(items, names, strict=True)))


def _ends(models: Sequence[dict[str, Any]]) -> tuple[str, str]:
    """(largest, smallest) by listed order: a catalogue runs from cheapest to most expensive."""
    return str(models[-1]["id"]), str(models[0]["id"])


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description:>22}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
    )


def _by_model(results: Sequence[DemoResult]) -> Table:
    table = Table("model", "share", "quality", "cost / 1000 requests", "latency p50", title="Where the prompts went")
    for name, count in Counter(result.model for result in results).most_common():
        mine = [result for result in results if result.model == name]
        share = f"{count / len(results):.0%}"
        table.add_row(name, share, _quality(mine), _cost(mine), f"{np.median([r.latency_ms for r in mine]):.0f} ms")
    return table


def _against(routed: Sequence[DemoResult], others: dict[str, list[DemoResult]]) -> Table:
    table = Table("", "quality", "cost / 1000 requests", "quality kept", "money saved", title="Against the simple ways")
    reference = next(iter(others.values()))
    best, most_expensive = np.mean([r.score for r in reference]), sum(r.cost for r in reference)
    for name, results in {"routed": list(routed), **others}.items():
        kept = np.mean([r.score for r in results]) / best if best else 0.0
        saved = 1 - sum(r.cost for r in results) / most_expensive if most_expensive else 0.0
        table.add_row(name, _quality(results), _cost(results), f"{kept:.0%}", f"{saved:.0%}")
    return table


def _learning(routed: Sequence[DemoResult]) -> Table:
    table = Table("", "quality", "cost / 1000 requests", title="Learning")
    window = min(100, len(routed) // 2)
    table.add_row(f"first {window}", _quality(routed[:window]), _cost(routed[:window]))
    table.add_row(f"last {window}", _quality(routed[-window:]), _cost(routed[-window:]))
    return table


def _quality(results: Sequence[DemoResult]) -> str:
    return f"{np.mean([result.score for result in results]):.1%}"


def _cost(results: Sequence[DemoResult]) -> str:
    return f"{np.mean([result.cost for result in results]) * 1000:.6f} USD"
