"""How long a machine works for a token of each arm, from the time that answers were measured to take of it.

What is learned is seconds, not money and not tokens a second of one request. Such seconds are an answer's share of the
machine. So a crowd of requests that are served together makes a token cheap, and whatever slows the crowd down makes a
token expensive.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

KEPT = 32  # latest answers of an arm that count: a new load is known after half of them
EVERY = 4  # answers between two fits, once there are twice as many
HALVED = 2.0  # answers that halve what the prior still says
LIGHTER = 16.0  # tokens of a prompt that are taken to weigh what one of an answer does, until lengths tell
FAR = 8.0  # times the middle answer's seconds for a token, or a part of them: beyond, an answer says nothing usual
SHORTEST_S = 1e-12  # of a token: logarithms are taken
PROMPT, COMPLETION, SECONDS = range(3)
TimedAnswer = tuple[float, float, float]  # tokens of its prompt, its own, and its share of a machine in seconds


@dataclass(frozen=True, slots=True)
class TokenSeconds:
    """Seconds of a machine for one token."""

    prompt: float
    completion: float
    answers: int = 0  # measured answers this rests on; 0: a prior


class MachineTime:
    """The latest answers of each arm and what they say of its tokens."""

    def __init__(self) -> None:
        self._answers: dict[str, deque[TimedAnswer]] = {}
        self._counts: dict[str, int] = {}  # answers ever
        self._measured: dict[str, TokenSeconds] = {}

    def learn(self, arm: str, *, prompt_tokens: int, completion_tokens: int, seconds: float) -> None:
        """One answer and its share of a machine's time."""
        if prompt_tokens + completion_tokens <= 0:
            return
        answers = self._answers.setdefault(arm, deque(maxlen=KEPT))
        answers.append((float(prompt_tokens), float(completion_tokens), seconds))
        count = self._counts[arm] = self._counts.get(arm, 0) + 1
        if count <= 2 * EVERY or count % EVERY == 0:
            self._measured[arm] = _measured(list(answers))

    def measured(self, arm: str) -> TokenSeconds | None:
        """What was measured of an arm; None before its first answer. The same object until something is learned."""
        return self._measured.get(arm)

    def completion_tokens(self, arm: str) -> float | None:
        """Mean length of its latest answers; None before the first."""
        answers = self._answers.get(arm)
        return sum([answer[COMPLETION] for answer in answers]) / len(answers) if answers else None

    def state(self) -> Mapping[str, NDArray[np.generic]]:
        """Arrays that restore() turns back into this exact state."""
        names = list(self._answers)
        return {
            "names": np.array(names, np.str_),
            "answers": np.array([each for name in names for each in self._answers[name]]).reshape(-1, 3),
            "lengths": np.array([len(self._answers[name]) for name in names], np.int64),
            "counts": np.array([self._counts[name] for name in names], np.int64),
            "measured": np.array([(m.prompt, m.completion, m.answers) for m in self._measured.values()]).reshape(-1, 3),
        }

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Inverse of state(). Raises: ValueError, KeyError where it is of another shape."""
        answers = np.array(state["answers"], np.float64)
        if answers.shape[1:] != (3,):
            raise ValueError(f"stored answers have shape {answers.shape[1:]}, expected (3,)")
        names = [str(name) for name in state["names"]]
        parts = np.split(answers, np.cumsum(np.array(state["lengths"], np.int64))[:-1])
        self._answers = {
            name: deque(map(tuple, part.tolist()), maxlen=KEPT) for name, part in zip(names, parts, strict=False)
        }
        self._counts = dict(zip(names, np.array(state["counts"], np.int64).tolist(), strict=True))
        rows = np.array(state["measured"], np.float64).tolist()
        self._measured = {name: TokenSeconds(p, c, int(n)) for name, (p, c, n) in zip(names, rows, strict=True)}


def blended(prior: TokenSeconds, measured: TokenSeconds | None) -> TokenSeconds:
    """The prior moved towards what was measured: in logarithms, and by half of the rest for every HALVED answers.

    A prior may be wrong by any factor; thirty-two answers leave a sixty-five-thousandth of its logarithm.
    """
    if measured is None:
        return prior
    rest = 2.0 ** (-measured.answers / HALVED)

    def between(old: float, new: float) -> float:
        logs = rest * math.log(max(old, SHORTEST_S)) + (1.0 - rest) * math.log(max(new, SHORTEST_S))
        return math.exp(logs)

    prompt, completion = between(prior.prompt, measured.prompt), between(prior.completion, measured.completion)
    return TokenSeconds(prompt, completion, measured.answers)


def _measured(answers: list[TimedAnswer]) -> TokenSeconds:
    """Seconds for a token from these answers, those far from the middle one left out.

    Weighed by LIGHTER, an answer's seconds for a token are a line in the prompt's share of its tokens. At a share of
    zero they are a completion's, at one a prompt's. The slope is shrunk by its own noise, so where lengths do not vary
    LIGHTER stands, and an answer of mean lengths costs what was measured.
    """
    shares, rates = _usual(answers)
    n = len(rates)
    share, rate = sum(shares) / n, sum(rates) / n
    spread = sum([each * each for each in shares]) / n - share * share
    together = sum([a * b for a, b in zip(shares, rates, strict=True)]) / n - share * rate
    left = sum([each * each for each in rates]) / n - rate * rate - together * together / max(spread, 1e-9)
    noise = max(left, 0.0) / max(rate * rate, SHORTEST_S)  # variance of relative errors
    slope = together / (spread + noise / n + 1e-9)
    completion = min(max(rate - slope * share, 0.0), rate / max(1.0 - share, 1e-9))
    prompt = max(completion + slope, 0.0) / LIGHTER
    return TokenSeconds(prompt, completion, len(answers))


def _usual(answers: list[TimedAnswer]) -> tuple[list[float], list[float]]:
    """Each answer's share of prompt among its weighed tokens, and its seconds for one of them."""
    weighed = [prompt / LIGHTER + completion for prompt, completion, _ in answers]
    rates = [answer[SECONDS] / weight for answer, weight in zip(answers, weighed, strict=True)]
    middle = sorted(rates)[len(rates) // 2]
    kept = [i for i, rate in enumerate(rates) if middle <= FAR * rate and rate <= FAR * middle]
    return [answers[i][PROMPT] / LIGHTER / weighed[i] for i in kept], [rates[i] for i in kept]
