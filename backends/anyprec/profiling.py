"""Chooses a width for every layer, so that a mean number of bits loses as little as it can on calibration text.

A step widens one layer from one stored width to a next one. Its gain is what the divergence KL(widest || this) of the
next token falls by when only that layer changes; its price is the layer's weights times the bits added. Of each
layer's steps the upper hull is kept, and the steps with most gain per bit are taken until the mean is reached
(a greedy knapsack). Layers mend each other's errors, so gains are measured three times. The first measurement is with
every layer narrow, to spend half of the bits. The second is from there, to spend all bits. The third is from there once
more, and stands if the profile loses less.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress as BarProgress

from backends.anyprec.calibration import read_texts
from backends.anyprec.engine.llama import Cache, Llama, NewTokens
from backends.anyprec.engine.tokenizer import Tokenizer
from backends.anyprec.engine.weights import PARTS, Matrix, Variant, Weights
from backends.anyprec.errors import Unsupported
from backends.anyprec.names import width_of
from backends.anyprec.profiles import Profile, read_profiles, write_profile
from backends.anyprec.store import Store, rewrite_config

MOST_TOKENS = 8192
SHARES = (0.5, 1.0, 1.0)  # of the bits that are spent after each time that gains are measured
AHEAD = 2  # stored widths above the narrow one that a layer may have
TEXTS_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Widening:
    """One layer from one width to a wider one."""

    layer: str
    narrow: int
    wide: int
    rate: float  # fall of the divergence in nats a token, for each bit of the layer's weights


class _Mixed(Weights):
    """Every layer at the width `widths` has for it, and with its patch, whatever the variant."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.widths: Mapping[str, int] = {}
        self.patches: Mapping[str, tuple[Matrix, Matrix]] = {}  # layer -> A (r, K), B (N, r): B A is added
        self._pieces: dict[tuple[str, int], Matrix] = {}

    def matrix(self, variant: Variant, layer: int, part: str) -> Matrix:
        names = [f"model.layers.{layer}.{name}" for name in PARTS[part]]
        return np.concatenate([self._patched(name) for name in names])

    def _patched(self, layer: str) -> Matrix:
        piece = self._piece(layer, self.widths[layer])
        if layer not in self.patches:
            return piece
        a, b = self.patches[layer]
        return piece + b @ a

    def _piece(self, layer: str, k: int) -> Matrix:
        if (layer, k) not in self._pieces:
            self._pieces[layer, k] = self.store.dequantize(layer, k)
        return self._pieces[layer, k]


class Divergences:
    """KL(widest || widths) of the next token on texts, in nats. Keeps every width's weights as float32."""

    def __init__(self, store: Store, texts: Sequence[Sequence[int]]) -> None:
        """Raises: Unsupported where no text has a token."""
        if not texts or not all(texts):
            raise Unsupported("the calibration text is empty")
        self._weights = _Mixed(store)
        self._model = Llama(self._weights)
        self._texts = sorted(texts, key=len)
        self._widest = self.log_probabilities(dict.fromkeys(store.layers, max(store.bits)))

    def log_probabilities(
        self, widths: Mapping[str, int], patches: Mapping[str, tuple[Matrix, Matrix]] | None = None
    ) -> NDArray[np.float32]:
        """Of every token of the vocabulary, after every token of the texts (T, V); `patches` add B A to layers."""
        self._weights.widths, self._weights.patches = widths, patches or {}
        return np.concatenate([self._forward(at) for at in range(0, len(self._texts), TEXTS_AT_ONCE)])

    def _forward(self, at: int) -> NDArray[np.float32]:
        shape, unused = self._model.shape, Variant(max(self._weights.store.bits))
        texts = self._texts[at : at + TEXTS_AT_ONCE]
        runs = [NewTokens(text, Cache(shape, len(text)), unused) for text in texts]
        logits = self._model.forward(runs, every_position=True)
        logits -= logits.max(axis=1, keepdims=True)
        logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
        return logits

    def of(self, widths: Mapping[str, int], patches: Mapping[str, tuple[Matrix, Matrix]] | None = None) -> float:
        """Mean over the tokens."""
        lost = self._widest - self.log_probabilities(widths, patches)
        return float(np.einsum("ij,ij->i", np.exp(self._widest), lost).mean(dtype=np.float64))

    def distance(self, widths: Mapping[str, int]) -> float:
        """Mean total variation in [0, 1]: how often a drawn token would be another than the widest draws."""
        apart = np.abs(np.exp(self._widest) - np.exp(self.log_probabilities(widths)))
        return 0.5 * float(apart.sum(axis=1).mean(dtype=np.float64))


def choose_widths(
    store: Store,
    texts: Sequence[Sequence[int]],
    *,
    bits: float,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Profile:
    """The profile of at most `bits` bits a weight that loses least on `texts`; `told` hears of each measurement.

    Raises: Unsupported for a number of bits that is no fraction between two stored widths, and for empty texts.
    """
    options, sizes = _options(store, bits), sizes_of(store)
    total = len(SHARES) * (2 + len(sizes) * (len(options) - 1))
    divergences = _CountedDivergences(Divergences(store, texts), lambda done: on_progress(done, total))
    widths, lost, spent = dict.fromkeys(store.layers, options[0]), np.inf, 0.0
    for share in SHARES:
        budget = (bits - options[0]) * sum(sizes.values()) * share
        found = _filled(_steps(divergences, widths, options, sizes), sizes, narrow=options[0], budget=budget)
        now = divergences.of(found)
        if share > spent or now < lost:
            widths, lost, spent = found, now, share
    return Profile(bits, mean_bits(widths, sizes), widths, divergences.distance(widths))


class _CountedDivergences:
    """Divergences, and how many were asked for."""

    def __init__(self, divergences: Divergences, on_progress: Callable[[int], None]) -> None:
        self._divergences, self._on_progress, self._done = divergences, on_progress, 0

    def of(self, widths: Mapping[str, int]) -> float:
        self._done += 1
        self._on_progress(self._done)
        return self._divergences.of(widths)

    def distance(self, widths: Mapping[str, int]) -> float:
        """Uncounted."""
        return self._divergences.distance(widths)


def mean_bits(widths: Mapping[str, int], sizes: Mapping[str, int]) -> float:
    """Bits a weight."""
    return sum(widths[layer] * size for layer, size in sizes.items()) / sum(sizes.values())


def sizes_of(store: Store) -> dict[str, int]:
    """Weights of every linear layer."""
    return {layer: int(np.prod(store.shape(layer))) for layer in store.layers}


def _options(store: Store, bits: float) -> list[int]:
    """The widths a layer may have, the narrow one first."""
    if width_of(bits) is None or bits in store.bits or not min(store.bits) < bits < max(store.bits):
        widths = ", ".join(map(str, store.bits))
        raise Unsupported(
            f"{bits:g} bits: a profile lies between the store's widths {widths}, with at most two decimals"
        )
    narrow = max(k for k in store.bits if k < bits)
    return [k for k in store.bits if k >= narrow][: 1 + AHEAD]


def _steps(
    divergences: _CountedDivergences, widths: Mapping[str, int], options: Sequence[int], sizes: Mapping[str, int]
) -> list[Widening]:
    """Every layer's steps worth taking while the others are as in `widths`, the one with most gain per bit first."""
    now, found = divergences.of(widths), list[Widening]()
    for layer, size in sizes.items():
        lost = {k: now if k == widths[layer] else divergences.of({**widths, layer: k}) for k in options}
        found += _hull(layer, size, {k: lost[options[0]] - lost[k] for k in options})
    return sorted(found, key=lambda step: -step.rate)


def _hull(layer: str, size: int, gains: Mapping[int, float]) -> list[Widening]:
    """The upper hull of one layer's gains by width, as steps of falling rate."""
    steps, narrow, widest = [], min(gains), max(gains)
    while narrow < widest:
        rates = {k: (gains[k] - gains[narrow]) / ((k - narrow) * size) for k in gains if k > narrow}
        wide = max(rates, key=lambda k: rates[k])
        if rates[wide] <= 0:
            break
        steps.append(Widening(layer, narrow, wide, rates[wide]))
        narrow = wide
    return steps


def _filled(steps: Sequence[Widening], sizes: Mapping[str, int], *, narrow: int, budget: float) -> dict[str, int]:
    """Every step, in order, that still fits into a budget of bits above `narrow`."""
    taken, spent = dict.fromkeys(sizes, narrow), 0.0
    for step in steps:
        price = (step.wide - step.narrow) * sizes[step.layer]
        if taken[step.layer] == step.narrow and spent + price <= budget:
            taken[step.layer] = step.wide
            spent += price
    return taken


def run(store: Path, *, bits: float, calibration: Path, most_tokens: int = MOST_TOKENS) -> Profile:
    """What `pointsman profile` does: choose under a progress bar, write into the store's folder, say what was won.

    Raises: AnyprecError before anything is written.
    """
    opened, console = Store.open(store), Console(stderr=True)
    read_profiles(opened.folder, opened.config)
    texts = _texts(opened, calibration, most_tokens)
    with BarProgress(console=console) as bar:
        task = bar.add_task("measuring", total=None)
        profile = choose_widths(
            opened, texts, bits=bits, on_progress=lambda done, total: bar.update(task, completed=done, total=total)
        )
    file = write_profile(profile, opened.folder, opened.config)
    wider = sum(k > min(profile.widths.values()) for k in profile.widths.values())
    console.print(f"{file}: {profile.mean_bits:.3f} bits a weight, {wider} of {len(profile.widths)} layers widened")
    return profile


def add_distances(folder: Path, calibration: Path, *, most_tokens: int = MOST_TOKENS) -> dict[int, float]:
    """Write into a store's config how far each width's answers lie from the widest's on a text.

    Raises: AnyprecError before anything is written.
    """
    store = Store.open(folder, verify_files=False)
    divergences = Divergences(store, _texts(store, calibration, most_tokens))
    found = {k: round(divergences.distance(dict.fromkeys(store.layers, k)), 6) for k in store.bits}
    rewrite_config(folder, distances={str(k): distance for k, distance in found.items()})
    return found


def _texts(store: Store, file: Path, most_tokens: int) -> list[list[int]]:
    """Raises: Unsupported, naming the file, where it holds no text or cannot be read."""
    window = int(store.config.get("max_position_embeddings", 2048))
    try:
        texts = read_texts(file, Tokenizer(store.folder), window=window, most_tokens=most_tokens)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Unsupported(f"{file}: {error!r}; expected text, or a .jsonl of {{'messages': […]}} lines") from error
    if not texts:
        raise Unsupported(f"the calibration text {file} is empty")
    return texts
