"""A gateway in front of engines that answer from a trace, asked by OpenAI's own client: what `benchmarks.live` runs.

Fails with what the gateway printed where it does not come up.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import yaml

from backends.scripted import Line
from benchmarks.child import Child, free_port
from benchmarks.live_events import Event, present, truth
from benchmarks.live_gateway import started
from benchmarks.redis_pair import redis_server
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
SNAPSHOT_S = 5.0
LOOKED_AT = 20  # requests between two looks at how far the gateway has learned
LATENCY_S = 0.05  # of an answer, where several are asked for at once
RELOADED = "settings reloaded"  # says the gateway's log
OWN = "own"  # a Redis of the run's


@dataclass(frozen=True)
class LivePlan:
    """What is run."""

    trace: Trace
    stream: Rows  # (N,) rows of the trace, in order of arrival
    past: Rows  # rows that every model answered beforehand
    budgets: Float | None  # (M,) USD of each model, or None for one budget
    total: float  # USD
    when_short: str = "refuse"
    rate: float = 0.0  # requests a second by the machine's clock; 0: one a second by a clock of the run's own
    at_once: int = 1  # requests under way, at most
    store: str = ""  # a Redis URL, or OWN; empty: SQLite
    workers: int = 1
    share: float = 1.0  # of the answers that are judged
    delay: int = 0  # requests between an answer and its judgement
    flipped: float = 0.0  # share of the judgements that say the opposite
    events: tuple[Event, ...] = ()  # in order
    explore: float = 0.0  # every model is labelled in the history: there is nothing to find out

    @property
    def period_s(self) -> int:
        """Of the budgets: as long as the stream takes."""
        return max(30, int(np.ceil(len(self.stream) / (self.rate or 1.0))))


class Live:
    """What came of a run of so many requests."""

    def __init__(self, count: int) -> None:
        self.scores, self.costs = np.zeros(count), np.zeros(count)
        self.models = [""] * count  # "" where nobody answered
        self.errors: dict[str, int] = {}
        self.behind_s = 0.0  # how late a request was, at most
        self.unchanged = True  # whether every restart left the decisions as they were
        self.expected: list[dict[str, tuple[float, float]]] = []  # (quality, USD) by model, at first
        self.versions: set[str] = set()  # of the policy's fit
        self.snapshots: set[int] = set()  # when they were written

    @property
    def result(self) -> Result:
        served = sum(bool(model) for model in self.models)
        return Result(float(self.scores.sum()), float(self.costs.sum()), served, len(self.models))


class Priced:
    """Prices at which tokens of a mean answer are TOKENS for every model, and the tokens of each answer."""

    def __init__(self, trace: Trace) -> None:
        self.per_million = np.maximum(np.round(trace.costs.mean(axis=0) / TOKENS * 1e6, 9), 1e-9)  # USD
        self.tokens = np.maximum(np.rint(trace.costs / (self.per_million / 1e6)), 1.0).astype(np.int64)  # (N, M)
        self.longest = int(self.tokens.max())


def settings_of(plan: LivePlan, priced: Priced, engine: str, folder: Path, port: int, at: int = 0) -> dict[str, Any]:
    """The gateway's settings before request `at`: each model at its price, with its budget or the tenant's."""
    period = f"{plan.period_s}s"
    models = []
    here = present(plan.events, plan.trace.models, len(plan.stream))[at]
    for i in np.flatnonzero(here):
        name = plan.trace.models[i]
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
        "index": {"snapshot_s": SNAPSHOT_S},
    } | ({"store": {"redis": plan.store}} if plan.store else {})


@asynccontextmanager
async def engines(trace: Trace, priced: Priced, *, latency_s: float = 0.0) -> AsyncIterator[str]:
    """The URL of an engine that answers as every model of the trace."""
    rows = {prompt: row for row, prompt in enumerate(trace.prompts)}
    columns = {name: column for column, name in enumerate(trace.models)}

    def answer(model: str, body: Mapping[str, Any]) -> Line:
        prompt: str = body["messages"][-1]["content"]
        tokens, read = int(priced.tokens[rows[prompt], columns[model]]), len(prompt) // 4 + 1
        reported = {"prompt_tokens": read, "completion_tokens": tokens, "total_tokens": tokens + read}
        return Line(
            text="ok", delay_s=latency_s, usage=reported | {"completion_tokens_details": {"reasoning_tokens": tokens}}
        )

    async with ScriptedServer(answer) as server:
        yield server.url


class Session:
    """One gateway over a folder, and its clients."""

    def __init__(self, plan: LivePlan, engine: str, folder: Path) -> None:
        self.plan, self.folder = plan, folder
        self.priced = Priced(plan.trace)
        self._port, self._engine = free_port(), engine
        self.config, self.log = folder / "pointsman.yaml", folder / "gateway.log"
        self._write(0)
        program = ["pointsman"] if plan.rate else ["benchmarks.live_gateway", str(folder / "clock")]
        command = [sys.executable, "-m", *program, "serve", "--config", str(self.config)]
        self.clock = started(folder / "clock", time.time() + AHEAD_S)
        self.child = Child("pointsman", self._port, command, self.log)
        self.url = f"http://127.0.0.1:{self._port}"
        self.scores = truth(plan.events, plan.trace, plan.stream)  # (N, M)
        self.http = httpx.AsyncClient(base_url=self.url, headers={"Authorization": f"Bearer {KEY}"}, timeout=60)
        self.sdk = openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key=KEY, max_retries=0)

    def _write(self, at: int) -> None:
        """The settings file as it is before request `at`."""
        written = settings_of(self.plan, self.priced, self._engine, self.folder, self._port, at)
        self.config.write_text(yaml.safe_dump(written))

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
        here = np.flatnonzero(present(plan.events, trace.models, len(plan.stream))[0])
        with file.open("w") as out:
            for row in plan.past:
                said = {f"score:{trace.models[i]}": trace.scores[row, i] for i in here}
                said |= {f"cost:{trace.models[i]}": trace.costs[row, i] for i in here}
                out.write(json.dumps({"prompt": trace.prompts[row], **said}) + "\n")
        headers = {"Authorization": f"Bearer {ADMIN}"}
        with httpx.Client(base_url=self.url, headers=headers, timeout=120) as admin:

            def post(path: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
                return dict(admin.post(path, json=body).raise_for_status().json())

            await asyncio.to_thread(lambda: teach(file, "past", {}, post=post, on_progress=lambda _: None))
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
        """Ask for every query of the stream, some at once and at the plan's rate, and judge the answers."""
        plan, live = self.plan, Live(len(self.plan.stream))
        live.expected = [await self._expected(plan.trace.prompts[row]) for row in plan.stream[:PROBES]]
        rng, free = np.random.default_rng(0), asyncio.Semaphore(plan.at_once)
        heard, lies = rng.random(len(plan.stream)) < plan.share, rng.random(len(plan.stream)) < plan.flipped
        waiting: list[tuple[int, str, float]] = []
        asked = set[asyncio.Task[None]]()

        async def ask(at: int) -> None:
            decision, score = await self._ask(live, at)
            free.release()
            if decision and heard[at]:
                waiting.append((at + plan.delay, decision, 1.0 - score if lies[at] else score))
            if at % LOOKED_AT == 0:
                await self._look(live, decision)

        began = time.monotonic()
        for at in range(len(plan.stream)):
            for event in (each for each in plan.events if each.at == at):
                if asked:
                    await asyncio.wait(asked)
                began += await self._happen(event, live)
            if plan.rate:
                due = began + at / plan.rate
                live.behind_s = max(live.behind_s, time.monotonic() - due)
                await asyncio.sleep(max(0.0, due - time.monotonic()))
            self.clock.move(1.0)
            await free.acquire()
            asked.add(task := asyncio.ensure_future(ask(at)))
            task.add_done_callback(asked.discard)
            if plan.at_once == 1:
                await task
            await self._judge(waiting, at)
        await asyncio.gather(*asked)
        return live

    async def _judge(self, waiting: list[tuple[int, str, float]], at: int) -> None:
        """Send what is due of the judgements that wait."""
        due = [each for each in waiting if each[0] <= at]
        waiting[:] = [each for each in waiting if each[0] > at]
        for _, decision, said in due:
            reported = {"decision_id": decision, "score": min(1.0, max(0.0, said))}
            (await self.http.post("/v1/feedback", json=reported)).raise_for_status()

    async def _look(self, live: Live, decision: str) -> None:
        """How far the gateway has learned, and whether it wrote a snapshot."""
        if decision:
            found = (await self.http.get(f"/v1/decisions/{decision}")).json()
            live.versions.add(str(found.get("policy_version", "+")).partition("+")[2])
        with contextlib.suppress(OSError):
            live.snapshots.add((self.folder / "state" / "views-0").stat().st_mtime_ns)

    async def _expected(self, prompt: str) -> dict[str, tuple[float, float]]:
        """Of each model; empty where the query is refused."""
        found = (await self.route(prompt)).get("candidates", ())
        return {each["model"]: (each["quality"], each["cost_usd"]) for each in found}

    async def _ask(self, live: Live, at: int) -> tuple[str, float]:
        """The decision and the score of one answer; ("", 0) where there was none."""
        trace, row = self.plan.trace, int(self.plan.stream[at])
        tokens = self.priced.tokens[row]
        try:
            raw = await self.sdk.chat.completions.with_raw_response.create(
                model="auto",
                messages=[{"role": "user", "content": trace.prompts[row]}],
                max_tokens=int(tokens.max()),
            )
        except openai.APIStatusError as error:
            code = str(error.code)
            live.errors[code] = live.errors.get(code, 0) + 1
            return "", 0.0
        live.models[at] = model = raw.parse().model
        column = trace.models.index(model)
        live.costs[at] = tokens[column] * self.priced.per_million[column] / 1e6
        live.scores[at] = score = float(self.scores[at, column])
        return raw.headers["x-pointsman-decision-id"], score

    async def _happen(self, event: Event, live: Live) -> float:
        """Seconds it took."""
        began = time.monotonic()
        if event.kind in ("restart", "kill"):
            await self._restart(live, at_once=event.kind == "kill")
        elif event.kind != "degrade":  # which only the judgements know
            await self._reload(event)
        return time.monotonic() - began

    async def _restart(self, live: Live, *, at_once: bool) -> None:
        probes = [self.plan.trace.prompts[row] for row in self.plan.past[:PROBES]]
        await asyncio.sleep(SETTLED_S)  # the last answer's cost is learned a moment after it
        before = [_shown(await self.route(probe)) for probe in probes]
        if at_once:
            self.child.kill()
        await self.stop()
        await self.start()
        after = [_shown(await self.route(probe)) for probe in probes]
        live.unchanged &= at_once or after == before  # who was killed may refit once more

    async def _reload(self, event: Event) -> None:
        """The settings as they are from now on; all workers must say that they took them."""
        reported = self.log.read_text().count(RELOADED)
        self._write(event.at)
        assert self.child.process is not None
        self.child.process.send_signal(signal.SIGHUP)
        async with asyncio.timeout(60):
            while self.log.read_text().count(RELOADED) < reported + self.plan.workers:  # noqa: ASYNC110  (of another process)
                await asyncio.sleep(0.1)


def _shown(decision: Mapping[str, Any]) -> list[tuple[object, ...]]:
    """What a restart must not change; nothing where the query is refused."""
    reported = ("model", "quality", "sigma", "cost_usd", "probability")
    return [tuple(each.get(name) for name in reported) for each in decision.get("candidates", ())]


@asynccontextmanager
async def redis_of(folder: Path) -> AsyncIterator[str]:
    """The URL of a Redis of our own."""
    port = free_port()
    command = [redis_server(), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    child = Child("redis", port, command, folder / "redis.log")
    child.start()
    try:
        await child.listening()
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        child.kill()


async def lived(plan: LivePlan, folder: Path) -> Live:
    """A whole run in a folder."""
    async with contextlib.AsyncExitStack() as stack:
        if plan.store == OWN:
            plan = replace(plan, store=await stack.enter_async_context(redis_of(folder)))
        latency_s = LATENCY_S if plan.at_once > 1 else 0.0
        engine = await stack.enter_async_context(engines(plan.trace, Priced(plan.trace), latency_s=latency_s))
        session = Session(plan, engine, folder)
        try:
            await session.start()
            await session.learn()
            return await session.run()
        finally:
            await session.stop()
            await session.http.aclose()
            await session.sdk.close()
