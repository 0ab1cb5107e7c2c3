"""Draws the next token, and tells its log-probability and the best alternatives."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

GREEDY_BELOW = 1e-5  # temperatures under this take the best token


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one answer is drawn. The defaults are OpenAI's."""

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # 0: all
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_tokens: frozenset[int] = frozenset()
    include_stop: bool = False
    ignore_eos: bool = False
    min_tokens: int = 0
    logprobs: int | None = None  # how many alternatives; None: no log-probabilities at all


@dataclass(frozen=True, slots=True)
class Token:
    """One drawn token; log-probabilities are the model's own, before temperature and filters."""

    id: int
    logprob: float
    rank: int  # 1: the most likely
    top: tuple[tuple[int, float], ...]


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """(V,) to (V,), in double precision."""
    shifted = logits.astype(np.float64) - float(logits.max())
    normalised: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum())
    return normalised


def filtered(logprobs: NDArray[np.float64], sampling: Sampling) -> NDArray[np.float64]:
    """Probabilities (V,) after temperature, top_k, min_p and top_p; they sum to 1."""
    p = np.exp(logprobs / sampling.temperature - (logprobs / sampling.temperature).max())
    p /= p.sum()
    order = np.argsort(-p, kind="stable")
    ranked = p[order]
    keep = np.ones(len(p), bool)
    if sampling.top_k > 0:
        keep[sampling.top_k :] = False
    keep &= ranked >= sampling.min_p * ranked[0]
    keep &= np.cumsum(ranked) - ranked < sampling.top_p  # the token that crosses top_p stays
    keep[0] = True
    p[order[~keep]] = 0.0
    chosen: NDArray[np.float64] = p / p.sum()
    return chosen


class Sampler:
    """Draws one answer's tokens with its own generator, so that other requests cannot change them."""

    def __init__(self, sampling: Sampling, *, seed: int) -> None:
        self._sampling = sampling
        self._random = np.random.default_rng(seed)
        self._seen: Counter[int] = Counter()

    def draw(self, logits: NDArray[np.float32], *, banned: frozenset[int] = frozenset()) -> Token:
        """The next token from logits (V,); `banned` ones are never drawn."""
        sampling = self._sampling
        plain = log_softmax(logits)
        scores = self._penalised(plain, banned)
        if sampling.temperature < GREEDY_BELOW:
            token = int(np.argmax(scores))
        else:
            cumulative = np.cumsum(filtered(scores, sampling))
            token = int(np.searchsorted(cumulative, self._random.random() * cumulative[-1], side="right"))
        self._seen[token] += 1
        logprob = float(plain[token])
        return Token(token, logprob, int((plain > logprob).sum()) + 1, best(plain, sampling.logprobs or 0))

    def _penalised(self, scores: NDArray[np.float64], banned: frozenset[int]) -> NDArray[np.float64]:
        sampling = self._sampling
        if not banned and not sampling.presence_penalty and not sampling.frequency_penalty:
            return scores
        scores = scores.copy()
        for token, count in self._seen.items():
            scores[token] -= sampling.presence_penalty + sampling.frequency_penalty * count
        scores[list(banned)] = -np.inf
        return scores


def best(logprobs: NDArray[np.float64], count: int) -> tuple[tuple[int, float], ...]:
    """The `count` likeliest tokens, best first."""
    if count == 0:
        return ()
    order = np.argsort(-logprobs, kind="stable")[:count]
    return tuple((int(token), float(logprobs[token])) for token in order)
