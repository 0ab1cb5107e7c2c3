"""Programs on the family's skills, through HTTP: what `auto` makes of them, each kind alone, and B4 simulated.

    python -m benchmarks.programs [--requests 2000] [--first 500] [--seeds 1] [--each 300] [--write]

Every request is judged by its skill's grader and the grade goes back as feedback. Figures are of the requests after the
first ones, with the half width of a 95 % interval. `--write` puts the tables into docs/programs.md.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
import tempfile
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from scipy import stats

from backends.family.catalogue import CATALOGUE
from benchmarks import long_input
from benchmarks.child import Child, free_port
from evaluation.skills import Item, grade, sample
from policies.picks import Pick, pick
from research.provenance import put

PAGE = Path(__file__).parents[1] / "docs/programs.md"
MODELS = ("small@4bit", "medium@4bit", "large@4bit")
REFERENCE = "large@4bit"
PROGRAMS: Mapping[str, Mapping[str, Any]] = {
    "sure": {"kind": "escalate", "of": ["medium@4bit", "large@4bit"]},
    "vote3": {"kind": "vote", "of": "medium@4bit", "n": 3},
    "vote5": {"kind": "vote", "of": "medium@4bit", "n": 5},
    "best4": {"kind": "best_of", "of": "medium@4bit", "n": 4},
}


@dataclass(frozen=True, slots=True)
class Judged:
    """One graded answer."""

    arm: str
    score: float
    usd: float


def settings(folder: Path, port: int, *, preference: float) -> dict[str, Any]:
    """Three widths of the family and the programs over them."""
    prices = {each.name: {"prompt": each.prompt_usd, "completion": each.completion_usd} for each in CATALOGUE}
    contexts = {each.name: each.context_tokens for each in CATALOGUE}
    qualities = {each.name: each.quality for each in CATALOGUE}
    return {
        "server": {"port": port, "grace_s": 0},
        "state_dir": str(folder / "state"),
        "auth": {"required": False},
        "backends": {"family": {"kind": "embedded", "discover": False}},
        "models": [
            {
                "name": name,
                "price": prices[name],
                "context_tokens": contexts[name],
                "quality": qualities[name],
                "bytes_per_token": 1.0,
            }
            for name in MODELS
        ],
        "preference": {"default": preference},
        "programs": {name: dict(program) for name, program in PROGRAMS.items()},
    }


@contextlib.contextmanager
def gateway(*, preference: float) -> Iterator[str]:
    """The URL of a gateway of its own."""
    with tempfile.TemporaryDirectory(prefix="programs-") as name:
        folder, port = Path(name), free_port()
        config = folder / "pointsman.yaml"
        config.write_text(yaml.safe_dump(settings(folder, port, preference=preference)))
        command = [sys.executable, "-m", "pointsman", "serve", "--config", str(config)]
        child = Child("gateway", port, command, folder / "log")
        child.start()
        try:
            asyncio.run(child.listening())
            yield f"http://127.0.0.1:{port}"
        except OSError:
            print((folder / "log").read_text()[-3000:], file=sys.stderr)
            raise
        finally:
            child.kill()


def post(url: str, body: Mapping[str, Any]) -> tuple[dict[str, Any], Mapping[str, str]]:
    """JSON and headers of an answer."""
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=600) as response:
        return json.load(response), dict(response.headers)


def asked(url: str, item: Item, model: str, *, temperature: float, judge: bool) -> Judged:
    """One request, graded, and the grade given back."""
    body = {"model": model, "messages": [{"role": "user", "content": item.prompt}], "temperature": temperature}
    answer, headers = post(f"{url}/v1/chat/completions", {**body, "max_tokens": 64})
    score = grade(item, answer["choices"][0]["message"]["content"] or "")
    if judge:
        post(f"{url}/v1/feedback", {"decision_id": headers["x-pointsman-decision-id"], "score": score})
    return Judged(headers["x-pointsman-model"], score, float(headers["x-pointsman-cost-usd"]))


def through(
    url: str, items: Sequence[Item], model: str, *, lanes: int, temperature: float = 0.0, judge: bool = False
) -> list[Judged]:
    """All of them, some at once, in order."""
    with ThreadPoolExecutor(lanes) as pool:
        return list(pool.map(lambda item: asked(url, item, model, temperature=temperature, judge=judge), items))


def mean(values: Sequence[float]) -> str:
    """With the half width of its 95 % interval."""
    half = 1.96 * float(np.std(values)) / max(1.0, len(values) ** 0.5)
    return f"{float(np.mean(values)):.3f} ± {half:.3f}"


def row(name: str, found: Sequence[Sequence[Judged]], reference: Sequence[Sequence[Judged]]) -> str:
    """Quality, USD per million requests, and both beside the reference's on the same requests, of one run or several.

    The shares are means over the runs, of several with the half width of a 95 % interval over them.
    """
    every = [each for run in found for each in run]
    usd = np.mean([each.usd for each in every]) * 1e6
    pairs = list(zip(found, reference, strict=True))
    kept = [np.mean([a.score for a in ours]) / np.mean([b.score for b in theirs]) for ours, theirs in pairs]
    cost = [np.mean([a.usd for a in ours]) / np.mean([b.usd for b in theirs]) for ours, theirs in pairs]
    return f"| {name} | {mean([each.score for each in every])} | {usd:.2f} | {share(kept)} | {share(cost)} |"


def share(values: Sequence[Any]) -> str:
    """The mean in per cent, of several values with the half width of a 95 % interval (Student's) over them."""
    if len(values) == 1:
        return f"{values[0]:.1%}"
    half = float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5)
    return f"{100 * np.mean(values):.1f} ± {100 * half:.1f}%"


HEAD = "| | quality | USD per million requests | of its quality | of its cost |\n|---|---|---|---|---|"


def drawn(count: int, seed: int) -> list[Item]:
    """So many items of the skills in a random order."""
    rng = np.random.default_rng(seed)
    items = sample(count, rng=rng, split="test")
    return [items[i] for i in rng.permutation(len(items))]


def automatic(options: argparse.Namespace, requests: int, *, temperature: float = 0.0) -> list[str]:
    """`auto` over models and programs, judged; and the reference on the requests that count. Votes are offered above
    the temperature 0 only."""
    early, late, reference, medium = [], [], [], []
    for seed in range(options.seed, options.seed + options.seeds):
        items = drawn(requests, seed)
        with gateway(preference=options.preference) as url:
            ask = partial(through, url, lanes=options.lanes, temperature=temperature)
            found, counted = ask(items, "auto", judge=True), items[options.first :]
            early.append(found[: options.first])
            late.append(found[options.first :])
            reference.append(ask(counted, REFERENCE))
            medium.append(ask(counted, MODELS[1]))
        print(f"seed {seed}: {row('auto', late[-1:], reference[-1:])}", flush=True)
    return [
        HEAD,
        row(REFERENCE, reference, reference),
        row(MODELS[1], medium, reference),
        row("auto", late, reference),
        "",
        "| arm | share of the first | share after | its quality | large@4bit's there |",
        "|---|---|---|---|---|",
        *_shares(*[[each for run in runs for each in run] for runs in (early, late, reference)]),
    ]


def _shares(early: Sequence[Judged], late: Sequence[Judged], reference: Sequence[Judged]) -> Iterator[str]:
    """What `auto` asked of whom, and how good that was."""
    before, after = (Counter(each.arm for each in found) for found in (early, late))
    for arm in (*MODELS, *PROGRAMS):
        own = [(each.score, other.score) for each, other in zip(late, reference, strict=True) if each.arm == arm]
        means = [f"{value:.3f}" for value in np.mean(own, axis=0)] if own else ["", ""]
        shares = f"{before[arm] / len(early):.1%} | {after[arm] / len(late):.1%}"
        yield f"| {arm} | {shares} | {' | '.join(means)} |"


def kinds(options: argparse.Namespace, items: Sequence[Item]) -> list[str]:
    """Each program by its name, judged from the start; votes at a temperature, since they need to differ."""
    with gateway(preference=options.preference) as url:
        kept = items[: options.each]
        reference = through(url, kept, REFERENCE, lanes=options.lanes)
        lines = [HEAD]
        for name in PROGRAMS:
            heat = 0.0 if name.startswith("sure") else 0.7
            if name.startswith("sure"):  # it learns from judged answers first
                through(url, items[options.each : 2 * options.each], name, lanes=options.lanes, judge=True)
            found = through(url, kept, name, lanes=options.lanes, temperature=heat)
            lines.append(row(f"{name}: {PROGRAMS[name]['kind']}", [found], [reference]))
        return lines


@dataclass(frozen=True, slots=True)
class PickWorld:
    """B4's simulation: n answers, m checks, how often each is right, and how often a wrong answer passes a check."""

    n: int
    m: int
    right: float
    valid: float


WORLDS = (PickWorld(10, 30, 0.2, 0.3), PickWorld(10, 30, 0.1, 0.2), PickWorld(5, 10, 0.4, 0.5))
PASSES_VALID, PASSES_INVALID = 0.4, 0.1  # of a wrong answer, on a right and on a wrong check


def simulated(world: PickWorld, how: Pick | None, *, draws: int, seed: int) -> float:
    """The share of draws in which the picked answer is right; of None a random one. Draws without a right answer are
    left out, since nobody could pick it."""
    rng, won, drawn = np.random.default_rng(seed), 0, 0
    while drawn < draws:
        right, valid = rng.random(world.n) < world.right, rng.random(world.m) < world.valid
        if not right.any():
            continue
        chance = np.where(valid, PASSES_VALID, PASSES_INVALID)
        passed = np.where(right[:, None], valid[None, :], rng.random((world.n, world.m)) < chance)
        won += bool(right[rng.integers(world.n) if how is None else pick(passed, how)])
        drawn += 1
    return won / draws


def simulation(draws: int) -> list[str]:
    """A table of the simulation."""
    lines = ["| answers, checks, right, valid | random | majority | CodeT | B4 |", "|---|---|---|---|---|"]
    for world in WORLDS:
        cells = [simulated(world, how, draws=draws, seed=1) for how in (None, "majority", "codet", "b4")]
        name = f"{world.n}, {world.m}, {world.right:g}, {world.valid:g}"
        lines.append(f"| {name} | " + " | ".join(f"{cell:.3f}" for cell in cells) + " |")
    return lines


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=2_000)
    parser.add_argument("--first", type=int, default=500, help="requests that are learned from and not counted")
    parser.add_argument("--each", type=int, default=300, help="requests of each program by its name")
    parser.add_argument("--draws", type=int, default=4_000, help="of the simulation")
    parser.add_argument("--tasks", type=int, default=200, help="long inputs of each kind")
    parser.add_argument("--batches", type=int, default=30, help="of requests in process")
    parser.add_argument("--lanes", type=int, default=4)
    parser.add_argument("--preference", type=float, default=0.5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=1, help="runs of auto, each with requests of its own")
    parser.add_argument("--parts", nargs="*", default=["simulation", "step", "plans", "long", "auto", "votes", "kinds"])
    parser.add_argument("--write", action="store_true", help="put the tables into docs/programs.md")
    options = parser.parse_args()
    made = {
        "simulation": lambda: simulation(options.draws),
        "step": lambda: long_input.one_step(options.batches),
        "plans": lambda: asyncio.run(long_input.latencies(tasks=5)),
        "long": lambda: asyncio.run(long_input.long_inputs(options.tasks)),
        "auto": lambda: automatic(options, options.requests),
        "votes": lambda: automatic(options, 2 * options.first, temperature=0.7),
        "kinds": lambda: kinds(options, drawn(2 * options.each, options.seed)),
    }
    for part in options.parts:
        lines = made[part]()
        print(f"\n{part}\n", *lines, sep="\n", flush=True)
        if options.write:
            put(PAGE, part, lines)


if __name__ == "__main__":
    main()
