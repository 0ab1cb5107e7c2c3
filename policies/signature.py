"""How an answer looks from outside: its token probabilities and its ending, and how likely such an answer is right.

A small reading of LLM Output Signatures (arXiv 2503.14043): hand-made features of the top logprobs, one calibrated
logistic head for each model, since confidence means different things at different widths.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from policies.types import Float

FEATURES = (
    "mean_logprob", "least_logprob", "first_logprob", "last_logprob", "mean_entropy", "entropy_slope", "mean_margin",
    "share_not_first", "log_tokens", "stopped", "cut_off", "called_tools",
)  # fmt: skip
WIDTH = len(FEATURES)
EDGE = 5  # tokens at either end
FLOOR = -20.0  # a logprob no lower than this
FOLDS = 5


def signature(chosen: Float, top: Float, *, finish_reason: str | None) -> Float:
    """(12,) FEATURES of one answer: chosen (T,) logprobs of its tokens, top (T, K) the K largest at each step,
    descending, K ≥ 1. An answer without tokens has zeros but for its ending."""
    ending = [finish_reason == "stop", finish_reason == "length", finish_reason in {"tool_calls", "function_call"}]
    if len(chosen) == 0:
        return np.array([0.0] * (WIDTH - len(ending)) + ending, np.float64)
    chosen, top = np.maximum(chosen, FLOOR), np.maximum(top, FLOOR)
    share = np.exp(top) / np.exp(top).sum(axis=1, keepdims=True)
    entropy = -(share * np.log(share)).sum(axis=1)  # (T,) of the K largest, renormalised
    steps = np.linspace(-1.0, 1.0, len(chosen)) if len(chosen) > 1 else np.zeros(1)
    slope = float(steps @ entropy / max(float(steps @ steps), 1.0))
    margin = top[:, 0] - top[:, 1] if top.shape[1] > 1 else np.zeros(len(top))
    return np.array(
        [
            chosen.mean(),
            chosen.min(),
            chosen[:EDGE].mean(),
            chosen[-EDGE:].mean(),
            entropy.mean(),
            slope,
            margin.mean(),
            (chosen < top[:, 0] - 1e-6).mean(),
            np.log1p(len(chosen)),
            *ending,
        ],
        np.float64,
    )


def chat_signature(choice: Mapping[str, object]) -> Float | None:
    """Of one choice of a chat completion with `logprobs`; None where the engine sent none.

    Raises: ValueError where its logprobs are malformed.
    """
    logprobs = choice.get("logprobs")
    content = logprobs.get("content") if isinstance(logprobs, Mapping) else None
    if not isinstance(content, Sequence) or isinstance(content, str):
        return None
    try:
        chosen = np.array([token["logprob"] for token in content], np.float64)
        most = max((len(token.get("top_logprobs") or ()) for token in content), default=0)
        top = np.full((len(content), max(most, 1)), FLOOR)
        for row, token in enumerate(content):
            found = sorted((each["logprob"] for each in token.get("top_logprobs") or (token,)), reverse=True)
            top[row, : len(found)] = found
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"malformed logprobs: {error!r}") from error
    reason = choice.get("finish_reason")
    return signature(chosen, top, finish_reason=reason if isinstance(reason, str) else None)


class Head:
    """P(the answer is right | its signature) for one model: logistic, then isotonic on out-of-fold predictions."""

    def __init__(self) -> None:
        self._centre: Float = np.zeros(WIDTH)
        self._scale: Float = np.ones(WIDTH)
        self._weights: Float = np.zeros(WIDTH + 1)  # the last is the intercept
        self._steps: Float = np.array([[0.0, 1.0], [0.0, 1.0]])  # (2, S) calibration: raw, then calibrated
        self.reliability = 0.0  # share of the variance of being right that it explains, in [0, 1]

    def fit(self, signatures: Float, right: NDArray[np.bool_], weights: Float) -> Float:
        """On answers (n, 12); returns the out-of-fold confidences (n,). Raises: ValueError with one class only."""
        if right.all() or not right.any():
            raise ValueError("a head needs right and wrong answers")
        self._centre, self._scale = signatures.mean(axis=0), signatures.std(axis=0) + 1e-6
        inputs = (signatures - self._centre) / self._scale
        from sklearn.isotonic import IsotonicRegression  # noqa: PLC0415 -- sklearn is 120 MB that only fitting needs
        from sklearn.linear_model import LogisticRegression  # noqa: PLC0415
        from sklearn.model_selection import cross_val_predict  # noqa: PLC0415

        model = LogisticRegression(C=0.3, max_iter=500)
        folds = min(FOLDS, int(right.sum()), int((~right).sum()))
        if folds > 1:
            raw = cross_val_predict(
                model, inputs, right, cv=folds, method="predict_proba", params={"sample_weight": weights}
            )[:, 1]
        else:
            raw = np.full(len(right), right.mean())
        isotonic = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit(raw, right, weights)
        self._steps = np.stack([isotonic.X_thresholds_, isotonic.y_thresholds_]).astype(np.float64)
        model.fit(inputs, right, weights)
        self._weights = np.append(model.coef_[0], model.intercept_[0]).astype(np.float64)
        confidences = np.asarray(np.interp(raw, *self._steps), dtype=np.float64)
        base = np.average((right - np.average(right, weights=weights)) ** 2, weights=weights)
        self.reliability = float(np.clip(1 - np.average((right - confidences) ** 2, weights=weights) / base, 0, 1))
        return confidences

    def confidence(self, found: Float) -> float:
        """In [0, 1], of one signature (12,)."""
        inputs = (found - self._centre) / self._scale
        raw = 1.0 / (1.0 + np.exp(-np.clip(inputs @ self._weights[:-1] + self._weights[-1], -30, 30)))
        return float(np.interp(raw, *self._steps))

    def state(self) -> dict[str, NDArray[np.generic]]:
        numbers = {"centre": self._centre, "scale": self._scale, "weights": self._weights, "steps": self._steps}
        return {**{key: value.copy() for key, value in numbers.items()}, "reliability": np.array(self.reliability)}

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        self._centre, self._scale = np.array(state["centre"], np.float64), np.array(state["scale"], np.float64)
        self._weights, self._steps = np.array(state["weights"], np.float64), np.array(state["steps"], np.float64)
        self.reliability = float(state["reliability"])
