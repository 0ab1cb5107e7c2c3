"""Tables of benchmarks.programs over scripted engines on real HTTP: long inputs, plans beside what came, one step.

The reader answers from its part alone, says "none" where that does not tell, and errs once in so many parts.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import re
import sys
import tempfile
import time
import zlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import yaml

from backends.scripted import Line
from benchmarks import in_process
from benchmarks.child import Child, free_port
from benchmarks.scripted_server import ScriptedServer
from benchmarks.settings import full_settings, pass_settings
from router.programs.map_reduce import combined

CONTEXT = 2_048  # tokens of four bytes
ERRS = 0.02  # of the reader's parts
PREFILL_S, TOKEN_S = 0.05, 0.004
WARM = 4  # runs from which a gateway learns how fast the engine is, and how long its answers are
EXACT = ("sum", "max", "count", "merge")
CHUNKS = ((4, 1), (8, 2), (8, 4), (12, 3), (16, 8))  # parts, and how many at once
FIRST = (
    "Ada",
    "Ben",
    "Cleo",
    "Dan",
    "Eva",
    "Finn",
    "Gus",
    "Hal",
    "Ida",
    "Jon",
    "Kim",
    "Leo",
    "Mia",
    "Ned",
    "Ola",
    "Pia",
)
REST = ("ard", "bel", "dor", "fen", "gar", "hol")
ASKED = {
    "sum": "What do all invoices come to?",
    "max": "Which invoice is the largest?",
    "count": "Say fire where there was one.",
    "merge": "Who paid by card?",
}


def reader(_: str, body: Mapping[str, Any]) -> Line:
    """One part, or the answers from all of them."""
    text = str(body["messages"][-1]["content"])
    if "Answers from the parts" in text:
        answers = [line.partition("] ")[2] for line in text.splitlines() if line.startswith("[part")]
        return Line(text=next((each for each in answers if each != "none"), "none"))
    errs = zlib.crc32(text.encode()) % 10_000 < ERRS * 10_000
    return Line(text=_read(text, errs=errs))


def _read(text: str, *, errs: bool) -> str:
    if asked := re.search(r"Who is (\w+)'s boss\?", text):
        found = re.search(rf"(\w+) is {asked[1]}'s boss\.", text)
        return ("nobody" if errs else found[1]) if found else "none"
    numbers = [int(each) for each in re.findall(r"Invoice of (\d+) euros", text)]
    if ASKED["sum"] in text:
        return str(sum(numbers) + errs)
    if ASKED["max"] in text:
        return str(sorted(numbers)[-1 - errs]) if len(numbers) > 1 else "none"
    if ASKED["count"] in text:
        return "fire" if ("There was a fire" in text) != errs else "none"
    cards = re.findall(r"(\w+) paid by card", text)
    return ", ".join(cards[errs:]) or "none"


def timed(_: str, body: Mapping[str, Any]) -> Line:
    """An engine that takes its time for every token of an answer, which is as long as the question says."""
    tokens = int(m[1]) if (m := re.search(r"in (\d+) words", str(body["messages"][-1]["content"]))) else 20
    return Line(text=" ".join(["word"] * tokens), delay_s=PREFILL_S + TOKEN_S * tokens)


@asynccontextmanager
async def gateway(script: Any, programs: Mapping[str, Any], context: int = CONTEXT) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a gateway of its own over one scripted engine."""
    with tempfile.TemporaryDirectory(prefix="programs-") as name:
        folder, port = Path(name), free_port()
        async with ScriptedServer(script) as engine:
            model = {"name": "reader", "price": {"prompt": 1, "completion": 1}, "context_tokens": context}
            settings = {
                "server": {"port": port, "grace_s": 0},
                "state_dir": str(folder / "state"),
                "auth": {"required": False},
                "backends": {"engine": {"kind": "vllm", "url": engine.url, "discover": False}},
                "models": [{**model, "max_output_tokens": 256}],
                "programs": dict(programs),
            }
            (folder / "pointsman.yaml").write_text(yaml.safe_dump(settings))
            command = [sys.executable, "-m", "pointsman", "serve", "--config", str(folder / "pointsman.yaml")]
            child = Child("gateway", port, command, folder / "log")
            logging.getLogger("httpx").setLevel(logging.WARNING)
            child.start()
            try:
                await child.listening()
                async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}/v1", timeout=600) as client:
                    yield client
            finally:
                child.kill()


async def said(client: httpx.AsyncClient, path: str, model: str, text: str, **more: object) -> Any:
    """What the gateway answers."""
    body = {"model": model, "messages": [{"role": "user", "content": text}], **more}
    answer = await client.post(path, content=json.dumps(body, separators=(",", ":"), ensure_ascii=False))
    if answer.status_code != 200:
        raise SystemExit(f"the gateway answered {answer.status_code}: {answer.text}")
    return answer.json()


async def text_of(client: httpx.AsyncClient, model: str, text: str) -> str:
    """Of an answer."""
    return str((await said(client, "/chat/completions", model, text))["choices"][0]["message"]["content"])


def _person(chance: random.Random) -> str:
    return chance.choice(FIRST) + chance.choice(REST) + chance.choice(REST)


def needle(chance: random.Random, size: int) -> tuple[str, str]:
    """(text, the right answer): who somebody's boss is, as the family's skill `chain` asks, among other people's."""
    lines, who, boss = list[str](), "Zoe" + chance.choice(REST), _person(chance)
    while sum(map(len, lines)) < size:
        lines.append(f"{_person(chance)} is {_person(chance)}'s boss.")
    lines.insert(chance.randrange(len(lines)), f"{boss} is {who}'s boss.")
    return "\n".join(lines) + f"\n\nWho is {who}'s boss?", boss


def aggregate(chance: random.Random, how: str, size: int) -> str:
    """A long text and a question to all of it."""
    lines = list[str]()
    while sum(map(len, lines)) < size:
        lines.append(f"Invoice of {chance.randrange(10, 10_000)} euros.")
        if chance.random() < 0.03:
            lines.append(f"{_person(chance)} paid by card.")
        if chance.random() < 0.004:
            lines.append("There was a fire.")
    return "\n".join(lines) + f"\n\n{ASKED[how]}"


def _right(how: str, text: str, answer: str) -> bool:
    """Whether it is what a reader who never errs makes of the whole; of `count`, of as many parts as said so."""
    if how == "merge":
        return set(re.findall(r"\w+", answer)) == set(re.findall(r"\w+", _read(text, errs=False)))
    return answer == combined([_read(text, errs=False)], how)


def chance_right(how: str, texts: Sequence[str], parts: int) -> float:
    """How often the whole is right where each part errs by itself. The largest is in one part, and a name that a part
    leaves out is not missed where another part has it."""
    if how == "max":
        return 1 - ERRS
    missed = 1.0
    if how == "merge":
        payers = [re.findall(r"(\w+) paid by card", text) for text in texts]
        missed = float(np.mean([names.count(name) == 1 for names in payers for name in names]))
    return (1 - ERRS * missed) ** parts


async def _share(works: Sequence[Any], at_once: int = 8) -> str:
    gate = asyncio.Semaphore(at_once)

    async def one(work: Any) -> bool:
        async with gate:
            return bool(await work)

    found = await asyncio.gather(*[one(work) for work in works])
    return f"{np.mean(found):.3f} ± {1.96 * np.std(found) / len(found) ** 0.5:.3f}"


async def long_inputs(tasks: int) -> list[str]:
    """Needles in one and in ten contexts; aggregates beside what the number of parts lets expect."""
    kinds: dict[str, Any] = {
        each: {"kind": "map_reduce", "map": "reader", "reduce": "reader", "exact": each, "part_tokens": 64}
        for each in EXACT
    }
    kinds["needle"] = {"kind": "map_reduce", "map": "reader", "reduce": "reader", "part_tokens": 32}
    lines = ["| task | parts | foretold | right |", "|---|---|---|---|"]
    async with gateway(reader, kinds) as client:

        async def found(text: str, boss: str) -> bool:
            return await text_of(client, "needle", text) == boss

        for contexts in (0.5, 10):
            drawn = [needle(random.Random(i), int(contexts * CONTEXT * 4)) for i in range(tasks)]
            plan = (await said(client, "/route", "needle", drawn[0][0]))["plan"]
            parts = sum(each["step"] != "reduce" for each in plan["steps"])
            right = await _share([found(*each) for each in drawn])
            lines.append(f"| needle, {contexts:g} contexts | {parts} | {1 - ERRS:.3f} | {right} |")

        async def adds_up(how: str, text: str) -> bool:
            return _right(how, text, await text_of(client, how, text))

        for how in ("sum", "max", "merge"):
            texts = [aggregate(random.Random(i), how, 10 * CONTEXT * 4) for i in range(tasks)]
            parts = len((await said(client, "/route", how, texts[0]))["plan"]["steps"])
            foretold = chance_right(how, texts, parts)
            print(f"{how}: {parts} parts, {foretold:.3f} foretold", flush=True)
            right = await _share([adds_up(how, text) for text in texts])
            lines.append(f"| {how}, 10 contexts | {parts} | {foretold:.3f} | {right} |")
    return lines


async def latencies(tasks: int) -> list[str]:
    """Seconds that a plan tells beside those that the answer took, for so many parts and so many at once."""
    programs = {
        f"digest{parts}at{at_once}": {
            "kind": "map_reduce",
            "map": "reader",
            "reduce": "reader",
            "at_once": at_once,
            "part_tokens": 32,
        }
        for parts, at_once in CHUNKS
    }
    lines = ["| parts | at once | foretold, s | measured, s | off by | completion tokens foretold | came |"]
    lines.append("|---|---|---|---|---|---|---|")
    async with gateway(timed, programs) as client:
        for parts, at_once in CHUNKS:
            name = f"digest{parts}at{at_once}"
            size = (parts - 0.5) * (CONTEXT - 96) * 4 * 0.9 * 0.75 / 1.2  # as MapReduce has it
            text = "The rain fell on the harbour.\n" * int(size / 30) + "\nHow was it, in 30 words?"
            for _ in range(WARM):
                await said(client, "/chat/completions", name, text)
            plan = (await said(client, "/route", name, text))["plan"]
            took, tokens = [], []
            for _ in range(tasks):
                began = time.perf_counter()
                answer = await said(client, "/chat/completions", name, text)
                took.append(time.perf_counter() - began)
                tokens.append(answer["usage"]["completion_tokens"])
            count, reported = len(plan["steps"]) - 1, sum(each["completion_tokens"] for each in plan["steps"])
            off = plan["seconds"] / np.mean(took) - 1
            row = f"| {count} | {at_once} | {plan['seconds']:.2f} | {np.mean(took):.2f} | {off:+.0%} |"
            lines.append(f"{row} {reported} | {np.mean(tokens):.0f} |")
    return lines


def one_step(batches: int) -> list[str]:
    """CPU of a request to a program of one step beside that of a request to its model, the least of many batches."""
    lines = ["| | the model, µs | the program, µs | more, µs |", "|---|---|---|---|"]
    for title, make in (("nothing remembered", pass_settings), ("keys, budgets, log", full_settings)):
        with tempfile.TemporaryDirectory(prefix="programs-") as name:
            settings: dict[str, Any] = make(in_process.ENGINE, Path(name), 0)
            plain = settings["models"][0]["name"]
            settings["programs"] = {"one": {"kind": "vote", "of": plain, "n": 1}}
            with in_process.stubbed(Path(name) / "one", settings) as run:
                both = [in_process.messages(200, model=each) for each in (plain, "one")]
                least = [
                    min(each) for each in zip(*[[run(each) for each in both] for _ in range(batches)], strict=True)
                ]
        lines.append(f"| {title} | {least[0]:.0f} | {least[1]:.0f} | {least[1] - least[0]:.0f} |")
    return lines
