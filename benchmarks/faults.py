"""Kills gateways, the store and engines under a crowd, and counts what became of the money.

`python -m benchmarks.money faults --seconds 120` starts Redis (AOF everysec), two engines and four gateways, sends 2000
requests at once and then a steady crowd while processes are killed with SIGKILL at random, and compares what clients
were given with what was charged.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import yaml

from backends.scripted import Line
from backends.scripted_server import ScriptedServer
from router.errors import StoreUnavailable
from router.stores.keys import Tenant
from router.stores.open import Stores, open_stores
from router.terms import Terms
from router.types import NANO_PER_USD, Budget, NanoUsd, Price

GATEWAYS, CROWD, STEADY = 4, 2000, 48
LEASE_S = 6
PRICES = {
    "small": Price(NanoUsd(100_000_000), NanoUsd(400_000_000)),
    "large": Price(NanoUsd(10**9), NanoUsd(4 * 10**9)),
}
MAX_TOKENS = 64
WORST = max(price.of(500, MAX_TOKENS) for price in PRICES.values())
AMPLE, TIGHT = Terms.of(budgets=["10000 USD per 1d"]), Terms.of(budgets=["0.008 USD per 1h"])
ROLLING = Terms.of(budgets=["0.004 USD per 30s"])
TENANTS = {"ample": AMPLE, "tight-1": TIGHT, "tight-2": TIGHT, "rolling": ROLLING}


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@dataclass
class Child:
    """A process that is killed and started again on the same port."""

    name: str
    port: int
    command: list[str]
    log: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(self.command, stdout=out, stderr=subprocess.STDOUT)

    def kill(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = None

    async def listening(self, *, within_s: float = 120, again: bool = False) -> None:
        """Wait until it accepts connections; started `again` when it has stopped by itself."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            if again and self.process is not None and self.process.poll() is not None:
                self.start()
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                writer.close()
                return
            await asyncio.sleep(0.05)
        raise RuntimeError(f"{self.name} does not listen:\n{self.log.read_text()[-3000:]}")


@dataclass
class Account:
    """What one key's client saw."""

    key_id: str
    secret: str
    tenant: str
    delivered: int = 0  # nano-USD of answers that came whole
    uncertain: int = 0  # requests that may have been served in part


@dataclass
class Tally:
    """What the run counts."""

    seen: Counter[str] = field(default_factory=Counter)
    overspend: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    waiting: dict[str, float] = field(default_factory=dict)  # a fault nobody has got over yet -> since
    forgotten: int = 0  # times that Redis lost its last second
    detection_s: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def served(self) -> None:
        for what in list(self.waiting):
            self.detection_s[what] = max(self.detection_s[what], time.monotonic() - self.waiting.pop(what))


# engines


def script(_model: str, _body: Any) -> Line:
    """Answers of 1 to 60 words, a few slow, a few broken."""
    draw = random.random()
    words = " ".join(["word"] * random.randint(1, 60))
    if draw < 0.02:
        return Line(words, trouble="500")
    if draw < 0.04:
        return Line(words, trouble="reset", trouble_after=3)
    if draw < 0.05:
        return Line(words, delay_s=8)
    return Line(words, delay_s=random.random() * 0.1, piece_delay_s=random.random() * 0.01)


async def engine(port: int) -> None:
    """An engine that runs until it is killed."""
    server = ScriptedServer(script, models=[{"id": name, "object": "model"} for name in PRICES])
    server.port = port
    await server.start()
    while True:
        await asyncio.sleep(1)
        server.heard.clear()


# clients


class Clients:
    """Requests of many keys over all gateways."""

    def __init__(self, gateways: list[Child], accounts: list[Account], tally: Tally) -> None:
        self._gateways, self._tally = itertools.cycle(gateways), tally
        self.accounts = accounts
        self._numbers = itertools.count()

    async def ask(self, session: aiohttp.ClientSession, account: Account, *, tries: int = 4) -> str:
        """One request with retries; what became of the last try."""
        outcome = "unreachable"
        for attempt in range(tries):
            outcome = await self._try(session, account)
            self._tally.seen[outcome] += 1
            if outcome not in ("unreachable", "503", "502"):
                break
            await asyncio.sleep(0.1 * 2**attempt)
        return outcome

    async def _try(self, session: aiohttp.ClientSession, account: Account) -> str:
        stream, leaves = random.random() < 0.6, random.random() < 0.08
        body = {"model": "auto", "max_tokens": MAX_TOKENS, "stream": stream, **_usage(stream)}
        body["messages"] = [{"role": "user", "content": f"question {next(self._numbers)} of {account.key_id}"}]
        url = f"http://127.0.0.1:{next(self._gateways).port}/v1/chat/completions"
        headers = {"Authorization": f"Bearer {account.secret}"}
        account.uncertain += 1  # until the answer says otherwise
        try:
            async with asyncio.timeout(0.05 if leaves else 5), session.post(url, json=body, headers=headers) as answer:
                if answer.status != 200:
                    return self._refused(account, answer.status, await answer.read())
                return self._delivered(account, await answer.read(), stream=stream)
        except (aiohttp.ClientConnectorError, aiohttp.ServerDisconnectedError):
            return "unreachable"
        except (TimeoutError, aiohttp.ClientError, OSError):
            return "left" if leaves else "cut"

    def _refused(self, account: Account, status: int, body: bytes) -> str:
        if status == 429:
            account.uncertain -= 1
            self._tally.served()
            return "budget" if b"insufficient_quota" in body else "rate limit"
        return str(status)

    def _delivered(self, account: Account, body: bytes, *, stream: bool) -> str:
        usage, model = _read(body, stream=stream)
        if usage is None:
            return "cut"
        account.uncertain -= 1
        account.delivered += PRICES[model].of(usage["prompt_tokens"], usage["completion_tokens"])
        self._tally.served()
        return "ok"


def _usage(stream: bool) -> dict[str, Any]:
    return {"stream_options": {"include_usage": True}} if stream else {}


def _read(body: bytes, *, stream: bool) -> tuple[dict[str, int] | None, str]:
    """Usage and model of a whole answer; None where it broke off."""
    if not stream:
        answer = msgspec.json.decode(body)
        return answer.get("usage"), answer.get("model", "")
    if b"data: [DONE]" not in body or b'"error"' in body:
        return None, ""
    usage, model = None, ""
    for event in body.split(b"\n\n"):
        if event.startswith(b"data: {"):
            chunk = msgspec.json.decode(event[6:])
            model, usage = chunk.get("model", model), chunk.get("usage") or usage
    return usage, model


# the run


class Run:
    """One store, two engines, four gateways and the clients."""

    def __init__(self, folder: Path, *, store: str, seed: int) -> None:
        self.folder, self.tally, self.random = folder, Tally(), random.Random(seed)
        self.redis = self._redis() if store == "redis" else None
        port = self.redis.port if self.redis else 0
        self.url = f"redis://127.0.0.1:{port}/0" if self.redis else f"sqlite:///{folder / 'pointsman.db'}"
        self.engines = [self._engine(i) for i in range(2)]
        self.gateways = [self._gateway(i) for i in range(GATEWAYS)]
        self.stop = asyncio.Event()
        self._down: set[str] = set()
        self._sizes: deque[tuple[float, int]] = deque(maxlen=100)  # of Redis's append-only file, by time
        self._gateways_die_from = 0.0

    def _redis(self) -> Child:
        beside = Path(sys.executable).parent / "redis-server"
        binary, port = str(beside) if beside.exists() else shutil.which("redis-server") or "redis-server", free_port()
        options = ["--auto-aof-rewrite-percentage", "0", "--dir", str(self.folder), "--save", ""]
        options += ["--bind", "127.0.0.1", "--appendonly", "yes"]
        command = [binary, "--port", str(port), *options, "--appendfsync", "everysec"]
        return Child("redis", port, command, self.folder / "redis.log")

    def _engine(self, i: int) -> Child:
        port = free_port()
        command = [sys.executable, "-m", "benchmarks.faults", "engine", str(port)]
        return Child(f"engine {i}", port, command, self.folder / f"engine{i}.log")

    def _gateway(self, i: int) -> Child:
        port, config = free_port(), self.folder / f"gateway{i}.yaml"
        config.write_text(yaml.safe_dump(self._settings(i)))
        command = [sys.executable, "-m", "pointsman", "serve", "--config", str(config), "--port", str(port)]
        return Child(f"gateway {i}", port, command, self.folder / f"gateway{i}.log")

    def _settings(self, i: int) -> dict[str, Any]:
        where = {"redis": self.url} if self.redis else {"sqlite": str(self.folder / "pointsman.db")}
        common = {"kind": "vllm", "discover": False, "breaker": {"failures": 5, "open_s": 1}}
        common["timeouts"] = {"connect_s": 1, "first_byte_s": 3, "idle_s": 3}
        urls = [f"http://127.0.0.1:{each.port}" for each in self.engines]
        models = [
            {
                "name": name,
                "backend": name,
                "context_tokens": 4096,
                "max_output_tokens": MAX_TOKENS,
                "price": {"prompt": price.prompt / NANO_PER_USD, "completion": price.completion / NANO_PER_USD},
            }
            for name, price in PRICES.items()
        ]
        return {
            "state_dir": str(self.folder / f"state{i}"),
            "store": {**where, "hold_ttl_s": LEASE_S, "timeout_s": 2},
            "backends": {name: {**common, "urls": urls} for name in PRICES},
            "models": models,
            "policy": {"name": "random"},
        }

    @property
    def children(self) -> list[Child]:
        return [*([self.redis] if self.redis else []), *self.engines, *self.gateways]

    async def up(self) -> None:
        for child in self.children:
            child.start()
            if child is self.redis:
                await child.listening()
        await asyncio.gather(*(child.listening() for child in self.children))

    def down(self) -> None:
        for child in self.children:
            child.kill()

    async def watch(self, stores: Stores) -> None:
        """Count every moment at which spent + held exceeds a limit."""
        budgets = _budgets()
        while not self.stop.is_set():
            with contextlib.suppress(StoreUnavailable):
                for balance in await stores.ledger.balances(budgets, now_ms()):
                    self.tally.overspend += balance.spent + balance.held > balance.budget.limit
            await asyncio.sleep(0.05)

    async def break_things(self, seconds: float) -> None:
        """Kill something every second or so, never the last of its kind but Redis, and start it again."""
        restarts: list[asyncio.Task[None]] = []
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            await asyncio.sleep(self.random.uniform(0.5, 2.5))
            kinds: list[list[Child]] = [self.engines, self.gateways, *([[self.redis]] if self.redis else [])]
            up = [child for child in self.random.choice(kinds) if child.name not in self._down]
            if not up or (len(up) == 1 and up[0] is not self.redis):
                continue
            child = self.random.choice(up)
            kind = child.name.split()[0]
            if kind == "gateway" and time.monotonic() < self._gateways_die_from:
                continue
            child.kill()
            self.tally.kills[kind] += 1
            self._after_kill(kind)
            if kind != "gateway":  # a dead gateway is found out when the leases of its holds end
                self.tally.waiting[kind] = time.monotonic()
            restarts.append(asyncio.create_task(self._restart(child)))
        await asyncio.gather(*restarts)

    def _after_kill(self, kind: str) -> None:
        """Every other time, if all gateways are well, Redis's machine goes with it: the last second is not on the disk.

        Gateways are then left alone until they have put it back: what one that is killed at the same time had done in
        that second comes from its own disk, but only when it is started again, when its room may have been given away.
        """
        now = time.monotonic()
        well = not any(gateway.name in self._down for gateway in self.gateways)
        if kind == "redis" and well and self.random.random() < 0.5:
            self._forget_a_second(now)
            self._gateways_die_from = now + 6

    def _forget_a_second(self, now: float) -> None:
        """Cut the file to what it was a second ago."""
        older = [size for at, size in self._sizes if at <= now - 1]
        file = self._aof()
        if older and file is not None and older[-1] < file.stat().st_size:
            os.truncate(file, older[-1])
            self.tally.forgotten += 1

    def _aof(self) -> Path | None:
        """The file that Redis appends to: in a folder of its own from version 7 on."""
        return next((p for p in self.folder.rglob("*.aof") if p.name.endswith((".incr.aof", "appendonly.aof"))), None)

    async def measure(self) -> None:
        """Note how long Redis's file is."""
        while not self.stop.is_set():
            if (file := self._aof()) is not None:
                self._sizes.append((time.monotonic(), file.stat().st_size))
            await asyncio.sleep(0.05)

    async def _restart(self, child: Child) -> None:
        self._down.add(child.name)
        await asyncio.sleep(self.random.uniform(0, 1))
        child.start()
        await child.listening(again=True)  # a gateway whose store is away stops; what supervises it starts it again
        self._down.discard(child.name)


def _budgets() -> list[Budget]:
    return [each.budget(f"tenant:{name}") for name, terms in TENANTS.items() for each in terms.budgets]


async def make_accounts(stores: Stores, count: int) -> list[Account]:
    """Tenants with budgets, and keys of theirs with a rate limit each."""
    for name, terms in TENANTS.items():
        await stores.keys.put(Tenant(name, terms))
    names = itertools.cycle(TENANTS)
    accounts = []
    for _ in range(count):
        name = next(names)
        key, secret = await stores.keys.create(
            name, terms=Terms.of(limits={"requests_per_minute": 10_000, "concurrent": 100})
        )
        accounts.append(Account(key.id, secret, name))
    return accounts


async def crowd(run: Run, clients: Clients, *, size: int) -> None:
    """Everybody at once, once."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        await asyncio.gather(*(clients.ask(session, account) for account in clients.accounts[:size]))


async def steady(run: Run, clients: Clients) -> None:
    """A few dozen clients until the run ends."""
    turns = itertools.cycle(clients.accounts)
    connector = aiohttp.TCPConnector(limit=0)

    async def one(session: aiohttp.ClientSession) -> None:
        while not run.stop.is_set():
            await clients.ask(session, next(turns), tries=2)
            await asyncio.sleep(0.05)

    async with aiohttp.ClientSession(connector=connector) as session:
        await asyncio.gather(*(one(session) for _ in range(STEADY)))


async def phantom_holds(stores: Stores) -> int:
    """Budgets that still show a hold after every lease must have ended."""
    budgets = _budgets()
    deadline, held = time.monotonic() + LEASE_S + 5, 1
    while held and time.monotonic() < deadline:
        await asyncio.sleep(0.2)
        held = sum(b.held > 0 for b in await stores.ledger.balances(budgets, now_ms()))
    return held


async def false_refusals(clients: Clients) -> int:
    """Requests of a tenant with money that are refused although everything is up again."""
    ample = [account for account in clients.accounts if account.tenant == "ample"][:100]
    async with aiohttp.ClientSession() as session:
        outcomes = await asyncio.gather(*(clients.ask(session, account) for account in ample))
    return sum(outcome in ("budget", "rate limit", "503", "401") for outcome in outcomes)


async def charged(stores: Stores) -> dict[str, int]:
    """Nano-USD charged to each key."""
    total: dict[str, int] = defaultdict(int)
    for line in await stores.spend.lines(since=_day(-1), until=_day(1)):
        total[line.key or ""] += line.cost_nanousd
    return total


def _day(offset: int) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(time.time() + offset * 86_400))


async def endings(stores: Stores, tally: Tally) -> Counter[str]:
    """How holds ended, as the audit tells of leases and restarts and the spend lines of settlements."""
    found: Counter[str] = Counter()
    after = ""
    while entries := await stores.audit.read(after=after, limit=1000):
        found.update(entry.kind for entry in entries)
        after = entries[-1].position
        for entry in entries:
            if entry.kind in ("hold.expired", "hold.released"):
                found_s = LEASE_S + float(str(entry.detail["overdue_ms"])) / 1000
                tally.detection_s["gateway"] = max(tally.detection_s["gateway"], found_s)
    lines = await stores.spend.lines(since=_day(-1), until=_day(1))
    found["settled"] = sum(line.requests for line in lines) - found["hold.expired"]
    return found


async def faults(*, seconds: float, folder: Path, store: str, size: int, seed: int) -> bool:
    """The whole run; true where nothing was lost."""
    run = Run(folder, store=store, seed=seed)
    if run.redis:
        run.redis.start()
        await run.redis.listening()
    try:
        async with open_stores(run.url, clock=now_ms) as stores:
            accounts = await make_accounts(stores, size)
            if run.redis:
                run.redis.kill()
            await run.up()
            clients = Clients(run.gateways, accounts, run.tally)
            watching = asyncio.gather(run.watch(stores), run.measure())
            began = time.monotonic()
            await crowd(run, clients, size=size)
            print(f"crowd: {size} requests at once over {GATEWAYS} gateways in {time.monotonic() - began:.1f} s")
            load = asyncio.create_task(steady(run, clients))
            await run.break_things(seconds)
            await asyncio.sleep(2)
            run.stop.set()
            await asyncio.gather(load, watching)
            phantoms = await phantom_holds(stores)
            refusals = await false_refusals(clients)
            phantoms = max(phantoms, await phantom_holds(stores))
            return report(run, accounts, await charged(stores), await endings(stores, run.tally), phantoms, refusals)
    finally:
        run.down()


def report(  # one line for each count
    run: Run, accounts: list[Account], paid: dict[str, int], ends: Counter[str], phantoms: int, refusals: int
) -> bool:
    """Print the counts; true where all that must be 0 is."""
    lost = sum(paid.get(a.key_id, 0) < a.delivered for a in accounts)
    double = sum(paid.get(a.key_id, 0) > a.delivered + a.uncertain * WORST for a in accounts)
    zeros = {
        "overspend": run.tally.overspend,
        "lost charges": lost,
        "double charges": double,
        "phantom holds": phantoms,
        "false refusals after recovery": refusals,
    }
    print(f"kills: {_counts(run.tally.kills.items())}; redis lost its last second {run.tally.forgotten} times")
    print(f"requests: {run.tally.seen.total()} ({_counts(run.tally.seen.most_common())})")
    print(
        f"settled: {ends['settled']}\nreleased: {ends['hold.released']} leases\nexpired: {ends['hold.expired']} leases"
    )
    print(
        f"after restarts: {ends['hold.restored']} holds restored, {ends['hold.recovered']} charged without their hold"
    )
    print(f"late settlements: {ends['hold.late']}")
    for name, count in zeros.items():
        print(f"{name}: {count}")
    slowest = max(run.tally.detection_s.values(), default=0.0)
    each = ", ".join(f"{k} {v:.2f} s" for k, v in run.tally.detection_s.items())
    print(f"worst detection time: {slowest:.2f} s ({each})")
    return not any(zeros.values())


def _counts(items: Iterable[tuple[str, int]]) -> str:
    return ", ".join(f"{name} {count}" for name, count in items)


def logs(folder: Path) -> Iterator[str]:
    """The ends of the processes' logs, for when something went wrong."""
    for path in sorted(folder.glob("*.log")):
        yield f"--- {path.name}\n{path.read_text()[-1500:]}"


if __name__ == "__main__":
    if sys.argv[1:2] != ["engine"]:
        raise SystemExit("run python -m benchmarks.money faults")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(engine(int(sys.argv[2])))
        os._exit(0)
