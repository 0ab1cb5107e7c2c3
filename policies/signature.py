"""How an answer looks from outside: its token probabilities, length, repetition and ending, and how likely it is right.

A small reading of LLM Output Signatures (arXiv 2503.14043): hand-made features of the top logprobs, one calibrated
logistic head for each model, since confidence means different things at different widths.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from policies.lazy_module import LazyModule
from policies.types import Float

optimize = LazyModule("scipy.optimize")

FEATURES = (
    "mean_logprob", "least_logprob", "first_logprob", "last_logprob", "mean_entropy", "entropy_slope", "mean_margin",
    "share_not_first", "log_tokens", "stopped", "cut_off", "called_tools", "log_over_expected", "repeated",
    "has_logprobs",
)  # fmt: skip
WIDTH = len(FEATURES)
HAS_LOGPROBS = FEATURES.index("has_logprobs")
EDGE = 5  # tokens at either end
FLOOR = -20.0  # a logprob no lower than this
FOLDS = 5
PENALTY = 3.0  # of squared weights, in answers: the logistic head's ridge
STEPS = 25  # of Newton's method, at most
KEPT, ENOUGH = 2_000, 40  # judged answers of a model that its head is fitted on, and from how many on
MOST_ARMS = 1_000
GRAM, LOOKED_AT = 4, 2_000  # words in a row that repeat, among so many words


def signature(
    chosen: Float, top: Float, *, finish_reason: str | None, tokens: int = 0, expected: float = 0.0, text: str = ""
) -> Float:
    """(WIDTH,) FEATURES of one answer: chosen (T,) logprobs of its tokens, top (T, K) the K largest at each step,
    descending, K ≥ 1, both empty where the engine sent none. `tokens` it took and was expected to take, 0 where nobody
    knows."""
    tokens = tokens or len(chosen)
    found = np.zeros(WIDTH)
    if len(chosen):
        found[:8], found[HAS_LOGPROBS] = _of_logprobs(np.maximum(chosen, FLOOR), np.maximum(top, FLOOR)), 1.0
    surprise = np.log((1.0 + tokens) / (1.0 + expected)) if tokens and expected > 0.0 else 0.0
    ending = [finish_reason == "stop", finish_reason == "length", finish_reason in {"tool_calls", "function_call"}]
    found[8:HAS_LOGPROBS] = [np.log1p(tokens), *ending, np.clip(surprise, -5.0, 5.0), repeated(text)]
    return found


def _of_logprobs(chosen: Float, top: Float) -> list[float]:
    share = np.exp(top) / np.exp(top).sum(axis=1, keepdims=True)
    entropy = -(share * np.log(share)).sum(axis=1)  # (T,) of the K largest, renormalised
    steps = np.linspace(-1.0, 1.0, len(chosen)) if len(chosen) > 1 else np.zeros(1)
    slope = float(steps @ entropy / max(float(steps @ steps), 1.0))
    margin = top[:, 0] - top[:, 1] if top.shape[1] > 1 else np.zeros(len(top))
    edges = chosen[:EDGE].mean(), chosen[-EDGE:].mean()
    unlikely = (chosen < top[:, 0] - 1e-6).mean()
    return [chosen.mean(), chosen.min(), *edges, entropy.mean(), slope, margin.mean(), unlikely]


def repeated(text: str) -> float:
    """The share of its runs of four words that stood there before, in [0, 1)."""
    words = text.split(maxsplit=LOOKED_AT)[:LOOKED_AT]
    runs = list(zip(*[words[start:] for start in range(GRAM)], strict=False))
    return 1.0 - len(set(runs)) / len(runs) if runs else 0.0


def chat_signature(choice: Mapping[str, object], *, tokens: int = 0, expected: float = 0.0, text: str = "") -> Float:
    """Of one choice of a chat completion, with its `logprobs` where the engine sent some.

    Raises: ValueError where its logprobs are malformed.
    """
    logprobs = choice.get("logprobs")
    content = logprobs.get("content") if isinstance(logprobs, Mapping) else None
    if not isinstance(content, Sequence) or isinstance(content, str):
        content = ()
    try:
        chosen = np.array([token["logprob"] for token in content], np.float64)
        most = max((len(token.get("top_logprobs") or ()) for token in content), default=0)
        top = np.full((len(content), max(most, 1)), FLOOR)
        for row, token in enumerate(content):
            found = sorted((each["logprob"] for each in token.get("top_logprobs") or (token,)), reverse=True)
            top[row, : len(found)] = found
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"malformed logprobs: {error!r}") from error
    if np.isnan(chosen).any() or np.isnan(top).any():
        raise ValueError("malformed logprobs: not all are numbers")
    reason = choice.get("finish_reason")
    ending = reason if isinstance(reason, str) else None
    return signature(chosen, top, finish_reason=ending, tokens=tokens, expected=expected, text=text)


class Head:
    """The score to expect of an answer by its signature, for one model: logistic, then isotonic out of fold."""

    def __init__(self) -> None:
        self._centre: Float = np.zeros(WIDTH)
        self._scale: Float = np.ones(WIDTH)
        self._weights: Float = np.zeros(WIDTH + 1)  # the last is the intercept
        self._steps: Float = np.array([[0.0, 1.0], [0.0, 1.0]])  # (2, S) calibration: raw, then calibrated
        self.reliability = 0.0  # share of the variance of scores that it explains out of fold, in [0, 1]

    def fit(self, signatures: Float, scores: Float, weights: Float) -> Float:
        """On answers (n, WIDTH) and their scores (n,) in [0, 1]; returns the out-of-fold confidences (n,).

        Raises: ValueError where all are right, or none is.
        """
        right = scores >= 0.5
        if right.all() or not right.any():
            raise ValueError("a head needs right and wrong answers")
        self._centre, self._scale = signatures.mean(axis=0), signatures.std(axis=0) + 1e-6
        inputs = np.hstack([(signatures - self._centre) / self._scale, np.ones((len(right), 1))])
        order = np.argsort(right, kind="stable")
        fold = np.empty(len(right), np.intp)
        fold[order] = np.arange(len(right)) % FOLDS  # as many right ones in each
        raw, honest = np.empty(len(right)), np.empty(len(right))
        for part in range(FOLDS):
            held = fold == part
            raw[held] = _sigmoid(inputs[held] @ _logistic(inputs[~held], right[~held], weights[~held]))
        for part in range(FOLDS):
            held = fold == part
            honest[held] = np.interp(raw[held], *_isotonic(raw[~held], scores[~held], weights[~held]))
        self._steps = _isotonic(raw, scores, weights)
        self._weights = _logistic(inputs, right, weights)
        base = np.average((scores - np.average(scores, weights=weights)) ** 2, weights=weights)
        self.reliability = float(np.clip(1 - np.average((scores - honest) ** 2, weights=weights) / base, 0, 1))
        return np.asarray(np.interp(raw, *self._steps), dtype=np.float64)

    def confidence(self, found: Float) -> float:
        """In [0, 1], of one signature (WIDTH,)."""
        inputs = np.clip((found - self._centre) / self._scale, -6.0, 6.0)
        return float(np.interp(_sigmoid(inputs @ self._weights[:-1] + self._weights[-1]), *self._steps))

    def state(self) -> dict[str, NDArray[np.generic]]:
        numbers = {"centre": self._centre, "scale": self._scale, "weights": self._weights, "steps": self._steps}
        return {**{key: value.copy() for key, value in numbers.items()}, "reliability": np.array(self.reliability)}

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Raises: ValueError, KeyError where it is of another width."""
        self._centre, self._scale = np.array(state["centre"], np.float64), np.array(state["scale"], np.float64)
        self._weights, self._steps = np.array(state["weights"], np.float64), np.array(state["steps"], np.float64)
        self.reliability = float(state["reliability"])
        if self._weights.shape != (WIDTH + 1,):
            raise ValueError(f"a stored head has {len(self._weights) - 1} features, expected {WIDTH}")


class AnswerHeads:
    """A head for each model, fitted on the latest of its answers that somebody else judged."""

    def __init__(self) -> None:
        self._answers: dict[str, list[Float]] = {}  # (WIDTH + 2,) each: signature, score, weight
        self._heads: dict[str, Head] = {}

    def judged(self, arm: str, found: Float, *, score: float, weight: float) -> None:
        """An answer of this arm and what another source than its signature says of it."""
        if arm not in self._answers and len(self._answers) >= MOST_ARMS:
            gone = next(iter(self._answers))
            del self._answers[gone]
            self._heads.pop(gone, None)
        answers = self._answers.setdefault(arm, [])
        answers.append(np.array([*found, score, weight]))
        del answers[:-KEPT]

    def fit(self) -> None:
        """Fit all that are known well enough; takes milliseconds, and may run in a thread."""
        for arm, answers in list(self._answers.items()):
            rows, head = np.array(answers), Head()
            if len(rows) >= ENOUGH and 0 < np.count_nonzero(rows[:, WIDTH] >= 0.5) < len(rows):
                head.fit(rows[:, :WIDTH], rows[:, WIDTH], rows[:, -1])
                self._heads[arm] = head

    def of(self, arm: str, found: Float) -> tuple[float, float]:
        """(the score to expect, how far to believe it, in [0, 1]); 0 of a model that too few answers were judged of."""
        head = self._heads.get(arm)
        return (0.5, 0.0) if head is None else (head.confidence(found), head.reliability)

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Arrays that restore() turns back into this exact state."""
        state: dict[str, NDArray[np.generic]] = {"arms": np.array(list(self._answers), np.str_)}
        for place, (arm, answers) in enumerate(self._answers.items()):
            state[f"answers{place}"] = np.array(answers)
            if arm in self._heads:
                state |= {f"head{place}.{key}": value for key, value in self._heads[arm].state().items()}
        return state

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Inverse of state(). Raises: ValueError, KeyError where it is of another shape."""
        answers: dict[str, list[Float]] = {}
        heads: dict[str, Head] = {}
        for place, name in enumerate(state["arms"].tolist()):
            rows = np.array(state[f"answers{place}"], np.float64)
            if rows.shape[1:] != (WIDTH + 2,):
                raise ValueError(f"stored answers are {rows.shape}, expected {WIDTH + 2} columns")
            answers[str(name)] = list(rows)
            stored = {k.partition(".")[2]: v for k, v in state.items() if k.startswith(f"head{place}.")}
            if stored:
                heads[str(name)] = Head()
                heads[str(name)].restore(stored)
        self._answers, self._heads = answers, heads


def _sigmoid(values: Float) -> Float:
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(values, -30.0, 30.0))))


def _logistic(inputs: Float, right: NDArray[np.bool_], weights: Float) -> Float:
    """(p,) weights of a logistic regression with a ridge on all but the intercept, by Newton's method."""
    ridge = PENALTY * np.append(np.ones(inputs.shape[1] - 1), 1e-6)
    found = np.zeros(inputs.shape[1])
    for _ in range(STEPS):
        share = _sigmoid(inputs @ found)
        slope = inputs.T @ (weights * (share - right)) + ridge * found
        curve = (inputs * (weights * np.maximum(share * (1.0 - share), 1e-6))[:, None]).T @ inputs + np.diag(ridge)
        step = np.linalg.solve(curve, slope)
        found -= step
        if np.abs(step).max() < 1e-6:
            break
    return found


def _isotonic(raw: Float, scores: Float, weights: Float) -> Float:
    """(2, S) the ascending steps that fit scores best, over raw."""
    order = np.argsort(raw, kind="stable")
    fitted = optimize.isotonic_regression(scores[order], weights=np.maximum(weights[order], 1e-9)).x
    return np.stack([raw[order], np.clip(fitted, 0.0, 1.0)])
