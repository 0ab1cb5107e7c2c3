"""What agents' sessions of many turns cost on real engines, by who chooses.

One model alone, a choice at every turn, and a choice that knows what each engine has of the session in its cache.

    python -m benchmarks.sessions small=http://127.0.0.1:8001 large=http://127.0.0.1:8002 [--sessions 8] [--turns 20]

Both are vLLM with --enable-prompt-tokens-details and a context of 8,192 tokens. Its own counters say what was found in
its cache. What is right is known to the benchmark: `small` fails at what is hard, and each answer is bought at the
prices below. Answers themselves are not read.
"""

from __future__ import annotations

import argparse
import random
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import yaml

from benchmarks.rig import free_port, running

KEY = "sk-bench-0000000000000002"
PRICE = {"prompt": 1.0, "cached": 0.1, "completion": 2.0}  # of `large`, USD per million tokens
SMALL = 0.8  # of that is the price of `small`
RIGHT = {"small": {"easy": 1.0, "hard": 0.2}, "large": {"easy": 1.0, "hard": 1.0}}
WORTH_USD = 0.008  # of a right answer
HARD = 0.3  # of the turns of every other session
TAUGHT = 40  # of each kind and model, beforehand
TOKENS = 24  # of a completion
WORDS = {
    "easy": "list open rename copy print move folder file line name path show close save read",
    "hard": "prove derive bound integral lemma converge theorem limit norm induction measure kernel rank dual",
}
SYSTEM = "You work step by step and answer in a few words. " * 6


@dataclass
class AgentSession:
    """One agent's talk so far."""

    name: str
    kinds: list[str]
    messages: list[dict[str, str]] = field(default_factory=list)
    models: list[str] = field(default_factory=list)


@dataclass
class SessionsBill:
    """What all sessions of one way to choose came to."""

    usd: float = 0.0
    right: float = 0.0
    turns: int = 0
    switches: int = 0
    queried: float = 0.0
    found: float = 0.0

    @property
    def quality(self) -> float:
        """Mean score of a turn."""
        return self.right / self.turns

    @property
    def share(self) -> float:
        """Of all tokens that engines read, what their caches had."""
        return self.found / self.queried


class Engines:
    """Engines by name, and what they say of themselves."""

    def __init__(self, urls: Mapping[str, str], *, small: float = SMALL) -> None:
        self.urls = urls
        self.prices = {
            name: {part: round(PRICE[part] * (small if name == "small" else 1.0), 9) for part in PRICE} for name in urls
        }

    def counted(self, name: str) -> float:
        """The sum of a counter over all engines."""
        total = 0.0
        for url in self.urls.values():
            text = httpx.get(f"{url}/metrics", timeout=60).text
            total += sum(map(float, re.findall(rf"^{re.escape(name)}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE)))
        return total

    def cache(self) -> tuple[float, float]:
        """Tokens that were looked for in a prefix cache, and those that were there."""
        return self.counted("vllm:prefix_cache_queries_total"), self.counted("vllm:prefix_cache_hits_total")


@contextmanager
def gateway(folder: Path, engines: Engines, *, caches: bool) -> Iterator[httpx.Client]:
    """A client of a gateway; without `caches` it does not know that what is cached costs less."""
    port = free_port()
    kept = ("prompt", "cached", "completion") if caches else ("prompt", "completion")
    patient = {"connect_s": 60, "first_byte_s": 300, "idle_s": 300}
    settings = {
        "server": {"port": port, "grace_s": 0},
        "state_dir": str(folder / "state"),
        "backends": {name: {"kind": "vllm", "url": url, "timeouts": patient} for name, url in engines.urls.items()},
        "models": [
            {
                "name": name,
                "backend": name,
                "context_tokens": 8192,
                "price": {part: engines.prices[name][part] for part in kept},
            }
            for name in engines.urls
        ],
        "policy": {"name": "neighbours", "options": {"neighbours": {"shrinkage": 1.0}}},
        "preference": {"default": 0.5, "reference_usd": WORTH_USD},
        "tenants": {"bench": {"keys": [{"secret": KEY}]}},
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pointsman.yaml").write_text(yaml.safe_dump(settings))
    command = [sys.executable, "-m", "pointsman", "serve", "--config", str(folder / "pointsman.yaml")]
    url = f"http://127.0.0.1:{port}"
    with (
        running(command, ready=f"{url}/ready", log=folder / "gateway.log", wait_s=120),
        httpx.Client(base_url=url, headers={"Authorization": f"Bearer {KEY}"}, timeout=300) as client,
    ):
        yield client


def said(kind: str, rng: random.Random) -> str:
    """What a user or a tool says in one turn."""
    return f"{kind} {rng.randrange(10**6)}: " + " ".join(rng.choices(WORDS[kind].split(), k=22))


def ask(client: httpx.Client, model: str, messages: list[dict[str, str]], kind: str, tokens: int) -> dict[str, Any]:
    """One answer, judged by what is right. Raises: httpx.HTTPStatusError."""
    body = {"model": model, "messages": messages, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
    answer = client.post("/v1/chat/completions", json=body).raise_for_status()
    by = answer.json()["model"]
    judged = {"decision_id": answer.headers["x-pointsman-decision-id"], "score": RIGHT[by][kind]}
    client.post("/v1/feedback", json=judged).raise_for_status()
    found: dict[str, Any] = answer.json()
    return found


def teach(client: httpx.Client) -> None:
    """How good each model is at each kind; the answers are one token."""
    rng = random.Random(3)
    for number in range(TAUGHT):
        for kind in WORDS:
            for model in RIGHT:
                ask(client, model, [{"role": "user", "content": f"{said(kind, rng)} ({number})"}], kind, 1)
    time.sleep(1.0)  # the log is followed


def charged(price: Mapping[str, float], usage: Mapping[str, Any]) -> float:
    """USD of one answer, from what its engine reports."""
    found: int = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    read, made = int(usage["prompt_tokens"]), int(usage["completion_tokens"])
    return ((read - found) * price["prompt"] + found * price["cached"] + made * price["completion"]) / 1e6


def talks(way: str, sessions: int, turns: int) -> list[AgentSession]:
    """The same for all ways to choose, but for their first words: no way finds what another left in a cache."""
    rng = random.Random(17)
    found = []
    for number in range(sessions):
        kinds = ["hard" if number % 2 and rng.random() < HARD else "easy" for _ in range(turns)]
        name = f"{way} {number}"
        found.append(AgentSession(name, kinds, [{"role": "system", "content": f"{name}. {SYSTEM}"}]))
    return found


def lived(client: httpx.Client, engines: Engines, way: str, *, sessions: int, turns: int) -> SessionsBill:
    """All turns of all sessions, side by side. `way` is a model's name, or anything else for `auto`."""
    all_talks, rng, bill = talks(way, sessions, turns), random.Random(29), SessionsBill()
    queried, found = engines.cache()
    for turn in range(turns):
        for talk in all_talks:
            kind = talk.kinds[turn]
            talk.messages.append({"role": "user", "content": said(kind, rng)})
            answer = ask(client, way if way in RIGHT else "auto", talk.messages, kind, TOKENS)
            by = answer["model"]
            talk.messages.append({"role": "assistant", "content": answer["choices"][0]["message"]["content"] or "."})
            bill.usd += charged(engines.prices[by], answer["usage"])
            bill.right += RIGHT[by][kind]
            bill.turns += 1
            bill.switches += bool(talk.models) and talk.models[-1] != by
            talk.models.append(by)
    now_queried, now_found = engines.cache()
    bill.queried, bill.found = now_queried - queried, now_found - found
    return bill


def measure(folder: Path, engines: Engines, *, sessions: int, turns: int) -> dict[str, SessionsBill]:
    """Bills by the way to choose."""
    found = {}
    with gateway(folder / "knows", engines, caches=True) as client:
        teach(client)
        for name in engines.urls:
            found[name] = lived(client, engines, name, sessions=sessions, turns=turns)
    shutil.copytree(folder / "knows" / "state", folder / "each-turn" / "state")
    with gateway(folder / "each-turn", engines, caches=False) as client:
        found["each turn anew"] = lived(client, engines, "each turn anew", sessions=sessions, turns=turns)
    with gateway(folder / "knows", engines, caches=True) as client:
        found["with the cache"] = lived(client, engines, "with the cache", sessions=sessions, turns=turns)
    return found


def rows(found: Mapping[str, SessionsBill]) -> list[str]:
    """A table of all ways."""
    head = ["| chosen by | USD | quality | found in caches, by vLLM's counters | switches |", "|---|---|---|---|---|"]
    return head + [
        f"| {way} | {bill.usd:.5f} | {bill.quality:.3f} | {100 * bill.share:.1f} % | {bill.switches} |"
        for way, bill in found.items()
    ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("engines", nargs=2)
    parser.add_argument("--sessions", type=int, default=8)
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--small", type=float, default=SMALL, help="its price, as a share of the price of `large`")
    given = parser.parse_args()
    engines = Engines(dict(each.split("=", 1) for each in given.engines), small=given.small)
    with tempfile.TemporaryDirectory() as folder:
        print(*rows(measure(Path(folder), engines, sessions=given.sessions, turns=given.turns)), sep="\n")


if __name__ == "__main__":
    main()
