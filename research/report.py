"""Tells what was measured: the ladder's tables in Markdown, what routing can save, and a picture."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from backends.anyprec.names import WidthName, parsed_width
from backends.family.catalogue import CATALOGUE, DECODE_TOKENS_PER_S, PROMPT_TOKENS_PER_S, price_usd
from evaluation.skills import LEVELS, SKILLS
from research.scores import Ladder

PRICE_TICKS = (0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0)  # USD per million requests
NEAR = 0.01  # a score this close to the best counts as as good


def _width(name: str) -> WidthName:
    found = parsed_width(name)
    assert found is not None, f"{name} is no width of a packed model"
    return found


def prices(ladder: Ladder) -> NDArray[np.float64]:
    """USD of every item at every candidate (candidates, m): its prompt, and an answer as long as the right one."""
    prompt, decode = [], []
    for name in ladder.candidates:
        width = _width(name)
        prompt.append(price_usd(PROMPT_TOKENS_PER_S[width.model], width.bits))
        decode.append(price_usd(DECODE_TOKENS_PER_S[width.model], width.bits))
    usd: NDArray[np.float64] = (np.outer(prompt, ladder.prompt_tokens) + np.outer(decode, ladder.answer_tokens)) / 1e6
    return usd


def cells(ladder: Ladder) -> NDArray[np.intp]:
    """The (skill, difficulty) of every item as one number (m,)."""
    names = list(SKILLS)
    pairs = zip(ladder.skills, ladder.difficulties, strict=True)
    return np.array([names.index(skill) * len(LEVELS) + level - 1 for skill, level in pairs], np.intp)


def offered(ladder: Ladder) -> Ladder:
    """Only the candidates of the catalogue."""
    kept = [i for i, name in enumerate(ladder.candidates) if name in {each.name for each in CATALOGUE}]
    return Ladder(
        [ladder.candidates[i] for i in kept],
        ladder.skills,
        ladder.difficulties,
        ladder.scores[kept],
        ladder.prompt_tokens,
        ladder.answer_tokens,
    )


def oracle(ladder: Ladder) -> NDArray[np.intp]:
    """For every item the cheapest candidate of those with its best score (m,): what a clairvoyant would choose."""
    usd = prices(ladder)
    good = ladder.scores >= ladder.scores.max(axis=0) - 1e-9
    chosen: NDArray[np.intp] = np.where(good, usd, np.inf).argmin(axis=0)
    return chosen


def by_cell(ladder: Ladder) -> NDArray[np.intp]:
    """For every item the cheapest candidate within NEAR of the best on its skill and difficulty (m,)."""
    cell, usd = cells(ladder), prices(ladder)
    chosen = np.empty(len(cell), np.intp)
    for number in np.unique(cell):
        here = cell == number
        mean = ladder.scores[:, here].mean(axis=1)
        cost = usd[:, here].mean(axis=1)
        chosen[here] = np.where(mean >= mean.max() - NEAR, cost, np.inf).argmin()
    return chosen


def outcome(ladder: Ladder, chosen: NDArray[np.intp]) -> tuple[float, float]:
    """Mean score in percent, and USD per million requests, of a choice for every item."""
    at = (chosen, np.arange(len(chosen)))
    return 100 * float(ladder.scores[at].mean()), 1e6 * float(prices(ladder)[at].mean())


def easy_skills(ladder: Ladder, *, among: str) -> list[str]:
    """Skills of the most expensive candidate that the best one `among` (a prefix) has within two points too."""
    rivals = [i for i, name in enumerate(ladder.candidates) if name.startswith(among)]
    means = {skill: ladder.by_skill(skill) for skill in SKILLS}
    return [s for s in SKILLS if means[s][-1] >= 0.9 and means[s][rivals].max() >= means[s][-1] - 0.02]


def show(ladder: Ladder, *, console: Console) -> None:
    """Print everything docs/family.md holds."""
    for line in (*accuracy(ladder), "", *routing(offered(ladder))):
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def show_steps(ladder: Ladder, *, console: Console) -> None:
    """Print what each further bit wins."""
    for line in steps(ladder):
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def steps(ladder: Ladder) -> list[str]:
    """Each candidate against the next width of its size on the same items: points won, and what bounds their chance."""
    lines = [_row("from", ["to", "score", "points won", "95 % interval", "items"]), _row("---", ["---"] + ["---:"] * 4)]
    for i, name in enumerate(ladder.candidates[:-1]):
        wider = ladder.candidates[i + 1]
        if wider.split("@")[0] == name.split("@")[0]:
            won = 100 * (ladder.scores[i + 1] - ladder.scores[i])
            half = 1.96 * float(won.std()) / len(won) ** 0.5
            interval = f"{won.mean() - half:.2f} … {won.mean() + half:.2f}"
            score = f"{100 * ladder.scores[i].mean():.2f}"
            lines.append(_row(name, [wider, score, f"{won.mean():.2f}", interval, str(len(won))]))
    return lines


def spread(ladder: Ladder) -> NDArray[np.float64]:
    """Half the 95 % interval of every candidate's mean, in percent."""
    halves: NDArray[np.float64] = 196 * ladder.scores.std(axis=1) / len(ladder.skills) ** 0.5
    return halves


def accuracy(ladder: Ladder) -> list[str]:
    """The accuracy table, with the mean and the price below."""
    heads = [f"{width.model} {width.bits}" for width in map(_width, ladder.candidates)]
    lines = [_row("skill", heads), _row("---", ["---:"] * len(heads))]
    lines += [_row(skill, [f"{100 * x:.0f}" for x in ladder.by_skill(skill)]) for skill in SKILLS]
    lines.append(_row("**mean**", [f"**{100 * x:.1f}**" for x in ladder.means()]))
    lines.append(_row("± (95 %)", [f"{x:.1f}" for x in spread(ladder)]))
    lines.append(_row("USD per million requests", [f"{1e6 * x:.2f}" for x in prices(ladder).mean(axis=1)]))
    kept = {among: ", ".join(easy_skills(ladder, among=among)) for among in (ladder.candidates[0], "small", "medium")}
    easy = [f"Within two points of the most expensive candidate, {among}: {skills}." for among, skills in kept.items()]
    return [*lines, "", *easy]


def routing(ladder: Ladder) -> list[str]:
    """What single candidates and two kinds of oracle earn and cost."""
    rows = [(f"always {name}", np.full(len(ladder.skills), i, np.intp)) for i, name in enumerate(ladder.candidates)]
    rows += [("oracle by skill and difficulty", by_cell(ladder)), ("oracle by item", oracle(ladder))]
    most_expensive = outcome(ladder, rows[len(ladder.candidates) - 1][1])
    lines = [_row("routing", ["score", "USD per million", "saved"]), _row("---", ["---:"] * 3)]
    for name, chosen in rows:
        score, usd = outcome(ladder, chosen)
        lines.append(_row(name, [f"{score:.1f}", f"{usd:.2f}", f"{100 * (1 - usd / most_expensive[1]):.0f} %"]))
    counts = Counter(ladder.candidates[i] for i in by_cell(ladder)[np.unique(cells(ladder), return_index=True)[1]])
    heads = ["cheapest of the best", f"of {sum(counts.values())} skills and difficulties"]
    shares = [_row(name, [str(counts[name])]) for name in ladder.candidates]
    return [*lines, "", _row(heads[0], heads[1:]), _row("---", ["---:"]), *shares]


def _row(head: str, fields: list[str]) -> str:
    return f"| {head} | {' | '.join(fields)} |"


def draw(ladder: Ladder, file: Path | None) -> None:
    """Draw score against price, one line a size, to `file` (docs/family.svg by default). Needs matplotlib."""
    from matplotlib import pyplot  # noqa: PLC0415  # an extra

    figure, axes = pyplot.subplots(figsize=(7, 4))
    usd, means = 1e6 * prices(ladder).mean(axis=1), 100 * ladder.means()
    for parent in dict.fromkeys(_width(name).model for name in ladder.candidates):
        here = [i for i, name in enumerate(ladder.candidates) if name.startswith(parent)]
        axes.plot(usd[here], means[here], marker="o", label=parent)
        for i in here:
            axes.annotate(
                str(_width(ladder.candidates[i]).bits),
                (usd[i], means[i]),
                (3, -11),
                textcoords="offset points",
            )
    among = offered(ladder)
    for name, chosen in (("oracle by skill and difficulty", by_cell(among)), ("oracle by item", oracle(among))):
        score, cost = outcome(among, chosen)
        axes.plot([cost], [score], marker="*", markersize=12, linestyle="", label=name)
    axes.set(xscale="log", xlabel="USD per million requests", ylabel="score, %", title="The family: numbers are bits")
    axes.set_xticks(PRICE_TICKS, [f"{tick:g}" for tick in PRICE_TICKS])
    axes.set_xticks([], minor=True)
    axes.margins(0.08)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.tight_layout()
    figure.savefig(file or Path("docs/family.svg"), metadata={"Date": None} if file is None else None)
