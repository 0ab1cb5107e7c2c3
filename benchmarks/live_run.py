"""A gateway in front of engines that answer from a trace, asked by OpenAI's own client: what `benchmarks.live` runs.

Fails with what the gateway printed where it does not come up.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import yaml

from backends.scripted import Line
from benchmarks.child import Child, free_port
from benchmarks.live_gateway import started
from benchmarks.scripted_server import ScriptedServer
from evaluation.learn import teach
from evaluation.traces import Trace
from policies.replay import Result, Rows
from policies.types import Float

KEY, ADMIN = "sk-live-0000000000000001", "sk-live-admin-00000001"
TOKENS = 100_000  # of a model's mean answer: prices are set by it
TENANT = "live"
AHEAD_S = 7_200.0  # of the machine, so that no file is of the future
PROBES = 8  # queries whose decisions a restart must not change
SETTLED_S = 1.0


@dataclass(frozen=True)
class LivePlan:
    """What is run."""

    trace: Trace
    stream: Rows  # (N,) rows of the trace, in order of arrival
    past: Rows  # rows that every model answered beforehand
    budgets: Float | None  # (M,) USD of each model, or None for one purse
    total: float  # USD
    when_short: str = "refuse"
    rate: float = 0.0  # requests a second by the machine's clock; 0: one a second by a clock of the run's own
    store: str = ""  # a Redis URL; empty: SQLite
    workers: int = 1
    share: float = 1.0  # of the answers that are judged
    delay: int = 0  # requests between an answer and its judgement
    flipped: float = 0.0  # share of the judgements that say the opposite
    restarts: frozenset[int] = frozenset()  # requests before which the gateway is stopped and started
    explore: float = 0.0  # every model is labelled in the history: there is nothing to find out

    @property
    def period_s(self) -> int:
        """Of the budgets: as long as the stream takes."""
        return max(30, int(np.ceil(len(self.stream) / (self.rate or 1.0))))


@dataclass
class Live:
    """What came of a run."""

    scores: list[float] = field(default_factory=list)
    costs: list[float] = field(default_factory=list)
    models: list[str] = field(default_factory=list)  # "" where nobody answered
    errors: dict[str, int] = field(default_factory=dict)
    behind_s: float = 0.0  # how late the last request was
    unchanged: bool = True  # whether every restart left the decisions as they were
    expected: list[dict[str, tuple[float, float]]] = field(default_factory=list)  # (quality, USD) by model, at first

    def answered(self, model: str, score: float, cost: float) -> None:
        self.models.append(model)
        self.scores.append(score)
        self.costs.append(cost)

    @property
    def result(self) -> Result:
        served = sum(bool(model) for model in self.models)
        return Result(sum(self.scores), sum(self.costs), served, len(self.models))


class Priced:
    """Prices at which tokens of a mean answer are TOKENS for every model, and the tokens of each answer."""

    def __init__(self, trace: Trace) -> None:
        self.per_million = np.maximum(np.round(trace.costs.mean(axis=0) / TOKENS * 1e6, 9), 1e-9)  # USD
        self.tokens = np.maximum(np.rint(trace.costs / (self.per_million / 1e6)), 1.0).astype(np.int64)  # (N, M)
        self.longest = int(self.tokens.max())


def settings_of(plan: LivePlan, priced: Priced, engine: str, folder: Path, port: int) -> dict[str, Any]:
    """The gateway's settings: each model at its price, with its budget or the tenant's."""
    period = f"{plan.period_s}s"
    models = []
    for i, name in enumerate(plan.trace.models):
        model: dict[str, Any] = {"name": name, "backend": "engine", "context_tokens": 2 * priced.longest + 100_000}
        model |= {"price": {"prompt": 0, "completion": f"{priced.per_million[i]:.9f}"}}
        if plan.budgets is not None:
            model |= {"capacity": f"{plan.budgets[i]:.9f} USD per {period}"}
        models.append(model)
    tenant: dict[str, Any] = {"keys": [{"secret": KEY}]}
    if plan.budgets is None:
        tenant["budgets"] = [f"{plan.total:.9f} USD per {period}"]
    options: dict[str, Any] = {"queries_per_s": plan.rate or 1.0, "explore": plan.explore}
    return {
        "server": {"port": port, "grace_s": 0, "workers": plan.workers},
        "state_dir": str(folder / "state"),
        "auth": {"admin_key": ADMIN},
        "backends": {"engine": {"kind": "vllm", "url": engine, "discover": False}},
        "models": models,
        "preference": 1.0,
        "budgets": {"when_short": plan.when_short},
        "policy": {"name": "paced", "options": {"paced": options}},
        "tenants": {TENANT: tenant},
        "feedback": {"per_key": 1_000_000, "per_tenant": 1_000_000},
    } | ({"store": {"redis": plan.store}} if plan.store else {})


@asynccontextmanager
async def engines(trace: Trace, priced: Priced) -> AsyncIterator[str]:
    """The URL of an engine that answers as every model of the trace."""
    rows = {prompt: row for row, prompt in enumerate(trace.prompts)}
    columns = {name: column for column, name in enumerate(trace.models)}

    def answer(model: str, body: Mapping[str, Any]) -> Line:
        prompt: str = body["messages"][-1]["content"]
        tokens, read = int(priced.tokens[rows[prompt], columns[model]]), len(prompt) // 4 + 1
        told = {"prompt_tokens": read, "completion_tokens": tokens, "total_tokens": tokens + read}
        return Line(text="ok", usage=told | {"completion_tokens_details": {"reasoning_tokens": tokens}})

    async with ScriptedServer(answer) as server:
        yield server.url


class Session:
    """One gateway over a folder, and its clients."""

    def __init__(self, plan: LivePlan, engine: str, folder: Path) -> None:
        self.plan, self.folder = plan, folder
        self.priced = Priced(plan.trace)
        port = free_port()
        config = folder / "pointsman.yaml"
        config.write_text(yaml.safe_dump(settings_of(plan, self.priced, engine, folder, port)))
        program = ["pointsman"] if plan.rate else ["benchmarks.live_gateway", str(folder / "clock")]
        command = [sys.executable, "-m", *program, "serve", "--config", str(config)]
        self.clock = started(folder / "clock", time.time() + AHEAD_S)
        self.child = Child("pointsman", port, command, folder / "gateway.log")
        self.url = f"http://127.0.0.1:{port}"
        self.http = httpx.AsyncClient(base_url=self.url, headers={"Authorization": f"Bearer {KEY}"}, timeout=60)
        self.sdk = openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key=KEY, max_retries=0)

    async def start(self) -> None:
        self.child.start()
        await self.child.listening()
        async with asyncio.timeout(120):
            while True:
                with contextlib.suppress(httpx.HTTPError):
                    if (await self.http.get("/ready")).status_code == 200:
                        return
                await asyncio.sleep(0.1)

    async def stop(self) -> None:
        if self.child.process is not None:
            self.child.process.terminate()
            await asyncio.to_thread(self.child.process.wait, 60)

    async def learn(self) -> None:
        """Teach what every model answered, and wait until all workers have learned it."""
        plan, trace = self.plan, self.plan.trace
        file = self.folder / "history.jsonl"
        with file.open("w") as out:
            for row in plan.past:
                said = {f"score:{name}": trace.scores[row, i] for i, name in enumerate(trace.models)}
                said |= {f"cost:{name}": trace.costs[row, i] for i, name in enumerate(trace.models)}
                out.write(json.dumps({"prompt": trace.prompts[row], **said}) + "\n")
        headers = {"Authorization": f"Bearer {ADMIN}"}
        with httpx.Client(base_url=self.url, headers=headers, timeout=120) as admin:

            def post(path: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
                return dict(admin.post(path, json=body).raise_for_status().json())

            await asyncio.to_thread(lambda: teach(file, "past", {}, post=post, told=lambda _: None))
        ready = 0
        async with httpx.AsyncClient(base_url=self.url, headers=headers) as asked, asyncio.timeout(1_800):
            while ready < 5 * self.plan.workers:
                found = (await asked.get("/admin/v1/histories")).json()["data"]
                ready = ready + 1 if all(each["learned"] for each in found) else 0
                await asyncio.sleep(0.2)

    async def route(self, prompt: str) -> dict[str, Any]:
        """What would be decided now."""
        body = {"model": "auto", "messages": [{"role": "user", "content": prompt}]}
        found: dict[str, Any] = (await self.http.post("/v1/route", json=body)).json()
        return found

    async def run(self) -> Live:
        """Ask for every query of the stream, one at a time and at the plan's rate, and judge the answers."""
        plan, live, waiting = self.plan, Live(), list[tuple[int, str, float]]()
        live.expected = [await self._expected(plan.trace.prompts[row]) for row in plan.stream[:PROBES]]
        rng = np.random.default_rng(0)
        began = time.monotonic()
        for at, row in enumerate(plan.stream):
            if at in plan.restarts:
                began += await self._restart(live)
            if plan.rate:
                due = began + at / plan.rate
                live.behind_s = max(0.0, time.monotonic() - due)
                await asyncio.sleep(max(0.0, due - time.monotonic()))
            self.clock.move(1.0)
            decision, score = await self._ask(live, int(row))
            if decision and rng.random() < plan.share:
                wrong = rng.random() < plan.flipped
                waiting.append((at + plan.delay, decision, 1.0 - score if wrong else score))
            while waiting and waiting[0][0] <= at:
                _, judged, said = waiting.pop(0)
                await self.http.post("/v1/feedback", json={"decision_id": judged, "score": min(1.0, max(0.0, said))})
        return live

    async def _expected(self, prompt: str) -> dict[str, tuple[float, float]]:
        """Of each model; empty where the query is refused."""
        found = (await self.route(prompt)).get("candidates", ())
        return {each["model"]: (each["quality"], each["cost_usd"]) for each in found}

    async def _ask(self, live: Live, row: int) -> tuple[str, float]:
        """The decision and the score of one answer; ("", 0) where there was none."""
        trace, tokens = self.plan.trace, self.priced.tokens[row]
        try:
            raw = await self.sdk.chat.completions.with_raw_response.create(
                model="auto",
                messages=[{"role": "user", "content": trace.prompts[row]}],
                max_tokens=int(tokens.max()),
            )
        except openai.APIStatusError as error:
            code = str(error.code)
            live.errors[code] = live.errors.get(code, 0) + 1
            live.answered("", 0.0, 0.0)
            return "", 0.0
        model = raw.parse().model
        column = trace.models.index(model)
        cost = float(tokens[column] * self.priced.per_million[column] / 1e6)
        live.answered(model, float(trace.scores[row, column]), cost)
        return raw.headers["x-pointsman-decision-id"], live.scores[-1]

    async def _restart(self, live: Live) -> float:
        """Seconds it took."""
        began = time.monotonic()
        probes = [self.plan.trace.prompts[row] for row in self.plan.past[:PROBES]]
        await asyncio.sleep(SETTLED_S)  # the last answer's cost is learned a moment after it
        before = [_shown(await self.route(probe)) for probe in probes]
        await self.stop()
        await self.start()
        live.unchanged &= [_shown(await self.route(probe)) for probe in probes] == before
        return time.monotonic() - began


def _shown(decision: Mapping[str, Any]) -> list[tuple[object, ...]]:
    """What a restart must not change; nothing where the query is refused."""
    told = ("model", "quality", "sigma", "cost_usd")
    return [tuple(each.get(name) for name in told) for each in decision.get("candidates", ())]


async def lived(plan: LivePlan, folder: Path) -> Live:
    """A whole run in a folder."""
    async with engines(plan.trace, Priced(plan.trace)) as engine:
        session = Session(plan, engine, folder)
        try:
            await session.start()
            await session.learn()
            return await session.run()
        finally:
            await session.stop()
            await session.http.aclose()
            await session.sdk.close()
