"""Stored answers for similar questions: how many are wrong, how many are given, and what they save.

    python -m benchmarks.stored_answers [--seeds 200] [--alpha 0.05] [--write docs/prices.md]

Questions of the public traces and of the packaged skills come again in other words, and turned round. That is, with a
negation, another number, the other one of a pair, or another thing asked for. What is wrong is known. Each seed is a
tenant that begins with nothing: it learns how sure to be from the answers it asks for, as the gateway does. Fails
with FileNotFoundError where a trace is missing.
"""

from __future__ import annotations

import argparse
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from backends.embedders.hashing import HashingEmbedder
from benchmarks.traces import FOLDER, STREAMS
from evaluation.skills import SKILLS
from policies.types import Float32
from research.provenance import put
from router.gateway.similar import AUDIT, NEAREST
from router.learning.likeness import confidence, fingerprint, is_comparable
from router.learning.similar_answers import Pairs, Questions

QUERIES = 800  # of a tenant
TOPICS = 60  # questions that come again and again
TURNED = 0.35  # of the queries, which differ from a question in what turns its answer round
_BEFORE = ("Please answer this: ", "Question: ", "Tell me, ", "Hello! ", "I need an answer. ", "", "", "")
_AFTER = (" Thanks!", " Please be brief.", " Thank you.", "", "", "", "")
_WORDS = {
    "what is": "what's", "which of the following": "which one of the following", "calculate": "compute",
    "find": "determine", "how many": "what number of", "describe": "explain", "is": "is", "write": "compose",
}  # fmt: skip
_SWAPS = {
    "most": "least", "more": "less", "first": "last", "before": "after", "largest": "smallest", "greater": "smaller",
    "increase": "decrease", "true": "false", "maximum": "minimum", "same": "different", "best": "worst", "all": "none",
    "highest": "lowest", "advantages": "disadvantages", "longest": "shortest", "odd": "even", "correct": "incorrect",
}  # fmt: skip
_OTHERS = ("copper", "river", "muscle", "senate", "virus", "carbon", "poverty", "harbour", "planet", "sister", "market")
_NEGATED = re.compile(r"\b(is|are|was|were|does|do|can|will|should|has|have)\b")


@dataclass(frozen=True)
class AskedQuestion:
    """One query and what its answer is known by."""

    text: str
    answer: str
    usd: float = 0.0  # a call


@dataclass(frozen=True)
class TenantTally:
    """Of one tenant."""

    exact: int  # the very same query as before
    given: int  # an answer to another one
    wrong: int  # of these
    asked: int
    saved_usd: float
    spent_usd: float

    @property
    def saved(self) -> float:
        """Of what all calls would cost."""
        return self.saved_usd / max(self.saved_usd + self.spent_usd, 1e-12)

    @property
    def share(self) -> float:
        """Of what was given, that was wrong."""
        return self.wrong / self.given if self.given else 0.0


Topic = Callable[[random.Random], AskedQuestion]


def in_other_words(text: str, dice: random.Random) -> str:
    """The same question."""
    for word, other in _WORDS.items():
        if dice.random() < 0.5:
            text = re.sub(rf"(?i)\b{word}\b", other, text, count=1)
    return f"{dice.choice(_BEFORE)}{text}{dice.choice(_AFTER)}"


def turned_round(text: str, dice: random.Random) -> str | None:
    """Another question that looks like it; None where nothing of it can be turned."""
    ways = [_swapped(text), _negated(text), _renumbered(text, dice), _replaced(text, dice), _replaced(text, dice)]
    able = [way for way in ways if way is not None and way != text]
    return dice.choice(able) if able else None


def _swapped(text: str) -> str | None:
    for word, other in _SWAPS.items():
        for one, two in ((word, other), (other, word)):
            found = re.sub(rf"(?i)\b{one}\b", two, text, count=1)
            if found != text:
                return found
    return None


def _negated(text: str) -> str | None:
    return _NEGATED.sub(r"\1 not", text, count=1) if _NEGATED.search(text) else None


def _renumbered(text: str, dice: random.Random) -> str | None:
    numbers = list(re.finditer(r"\d+", text))
    if not numbers:
        return None
    one = dice.choice(numbers)
    return f"{text[: one.start()]}{int(one[0]) + dice.randint(1, 9)}{text[one.end() :]}"


def _replaced(text: str, dice: random.Random) -> str | None:
    """Another thing asked for, of which no rule knows."""
    words = list(re.finditer(r"\b[a-z]{5,}\b", text))
    if not words:
        return None
    one = dice.choice(words)
    return f"{text[: one.start()]}{dice.choice(_OTHERS)}{text[one.end() :]}"


def of_traces(prompts: Mapping[str, float], dice: random.Random) -> Topic:
    """A prompt of a trace, in other words or turned round; a call costs what the trace's models took on average."""
    prompt, usd = dice.choice(list(prompts.items()))

    def ask(dice: random.Random) -> AskedQuestion:
        other = turned_round(prompt, dice) if dice.random() < TURNED else None
        text = prompt if other is None else other
        return AskedQuestion(in_other_words(text, dice), text, usd)

    return ask


def of_skills(usd: float, dice: random.Random) -> Topic:
    """A request of a skill as its generator words it; sometimes another one of the same skill and wording. A call
    costs `usd`."""
    skill, level, seed = dice.choice(list(SKILLS.values())), dice.randint(1, 2), dice.randrange(40)

    def ask(dice: random.Random) -> AskedQuestion:
        drawn = skill.make(random.Random(seed if dice.random() > TURNED else dice.randrange(40)), level)
        return AskedQuestion(in_other_words(drawn.prompt, dice), f"{skill.name}|{drawn.answer}|{drawn.key}", usd)

    return ask


def prompts_of_traces(folder: Path, most: int = 4_000) -> dict[str, float]:
    """Short enough to be asked in a chat, and comparable; USD that a call took, the mean of the trace's models."""
    found: dict[str, float] = {}
    for name in STREAMS:
        rows = pd.read_parquet(folder / f"{name}.parquet")
        costs = rows[[each for each in rows if str(each).startswith("cost:")]].mean(axis=1)
        found |= {str(prompt): float(usd) for prompt, usd in zip(rows["prompt"], costs, strict=True)}
    short = [(prompt, usd) for prompt, usd in found.items() if len(prompt) <= 600 and is_comparable(prompt)]
    return dict(short[:most])


def stream(prompts: Mapping[str, float], seed: int, queries: int = QUERIES) -> list[AskedQuestion]:
    """What one tenant asks: a few questions often, most seldom."""
    dice, usual = random.Random(seed), float(np.median(list(prompts.values())))
    topics = [of_traces(prompts, dice) if dice.random() < 0.6 else of_skills(usual, dice) for _ in range(TOPICS)]
    weights = [1.0 / (place + 1) ** 0.8 for place in range(TOPICS)]
    return [topic(dice) for topic in dice.choices(topics, weights, k=queries)]


def run(asked: Sequence[AskedQuestion], vectors: Float32, *, alpha: float, seed: int) -> TenantTally:
    """One tenant's queries in order, with nothing known at first."""
    dice, questions, pairs = random.Random(seed), Questions("", vectors.shape[1]), Pairs()
    exact = given = wrong = calls = 0
    saved, all_usd = 0.0, sum(each.usd for each in asked)
    stored = set[str]()
    for place, (query, vector) in enumerate(zip(asked, vectors, strict=True)):
        if query.text in stored:
            exact, saved = exact + 1, saved + query.usd
            continue
        near = questions.nearest(vector, fingerprint(query.text), NEAREST) if is_comparable(query.text) else []
        known = [(confidence(query.text, asked[int(each.name)].text, each.cosine), int(each.name)) for each in near]
        sure, of = max(known, default=(0.0, -1))
        is_right = of >= 0 and asked[of].answer == query.answer
        if sure > 0.0 and sure >= pairs.threshold(alpha) and dice.random() >= AUDIT:
            given, wrong, saved = given + 1, wrong + (not is_right), saved + query.usd
            continue
        calls += 1
        stored.add(query.text)
        if sure > 0.0:
            pairs.add(sure, wrong=not is_right)
        if is_comparable(query.text):
            questions.add(str(place), vector, fingerprint(query.text))
    return TenantTally(exact, given, wrong, calls, saved, all_usd - saved)


def table(
    prompts: Mapping[str, float], alphas: Sequence[float], seeds: int, queries: int = QUERIES
) -> dict[float, list[TenantTally]]:
    """Each seed's, by α."""
    embedder = HashingEmbedder()
    found: dict[float, list[TenantTally]] = {alpha: [] for alpha in alphas}
    for seed in range(seeds):
        asked = stream(prompts, seed, queries)
        vectors = embedder.embed_now([each.text for each in asked])
        for alpha in alphas:
            found[alpha].append(run(asked, vectors, alpha=alpha, seed=seed))
    return found


HEAD = """\
| α | wrong among those given, all tenants | mean of tenants | 95 of 100 tenants below | tenants above α + .02 \
| calls saved (95 of 100 tenants) | by exact answers alone | USD saved (95 of 100 tenants) | in all |
|---|---|---|---|---|---|---|---|---|
"""


def row(alpha: float, found: Sequence[TenantTally]) -> str:
    """A line of the table."""
    shares = np.array([each.share for each in found])
    calls = [(each.exact + each.given) / (each.exact + each.given + each.asked) for each in found]
    exact = float(np.mean([each.exact / (each.exact + each.given + each.asked) for each in found]))
    wrong, given = sum(each.wrong for each in found), sum(each.given for each in found)
    saved_usd = sum(each.saved_usd for each in found)
    cells = [
        f"{alpha:g}", _percent(wrong / max(1, given), 2), _percent(float(shares.mean()), 2),
        _percent(float(np.quantile(shares, 0.95)), 2), _percent(float((shares > alpha + 0.02).mean())),
        _with_range(calls), _percent(exact), _with_range([each.saved for each in found]),
        f"{saved_usd:.2f} of {saved_usd + sum(each.spent_usd for each in found):.2f} USD",
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |\n"


def _percent(share: float, places: int = 1) -> str:
    return f"{100 * share:.{places}f} %"


def _with_range(shares: Sequence[float]) -> str:
    low, high = np.quantile(shares, [0.025, 0.975]).tolist()
    return f"{_percent(float(np.mean(shares)))} ({100 * low:.1f} … {100 * high:.1f})"


def main() -> None:
    """Print the table, or write it between the marks of a page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--alpha", type=float, nargs="*", default=[0.02, 0.05, 0.1])
    parser.add_argument("--write", type=Path)
    given = parser.parse_args()
    found = table(prompts_of_traces(given.folder), given.alpha, given.seeds)
    made = HEAD + "".join(row(alpha, each) for alpha, each in found.items())
    print(made)
    if given.write is not None:
        put(given.write, "stored answers", made.splitlines())


if __name__ == "__main__":
    main()
