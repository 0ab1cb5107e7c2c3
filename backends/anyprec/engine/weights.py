"""Float32 weights of a store at any width, fused for few matrix products and kept only within a bound of memory.

Tables hold float16, so keeping rows as float16 loses nothing. Where the rows of all widths in use do not fit as
float32, some are kept at half the bytes and widened for every use.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.anyprec.engine import pages
from backends.anyprec.errors import Unsupported
from backends.anyprec.profiles import Profile
from backends.anyprec.store import Store

Matrix = NDArray[np.float32]
PARTS = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "o": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}  # linear layers that read the same input are one matrix
PARENT_SHARE = 0.3  # of the store's bytes, and
SPARE_BYTES = 36_000_000  # together what dequantized rows may take; the promise is 1.3 x the store + 60 MB for all
IDLE_STEPS = 64  # a width unused for so long gives up its rows


@dataclass(frozen=True, slots=True, order=True)
class Variant:
    """A width, whole or a profile's, and the name of the adapter on top of it, if any."""

    bits: float
    adapter: str = ""


@dataclass(frozen=True, slots=True)
class Adapter:
    """Low-rank factors of some linear layers at one width: W + scale · B A."""

    name: str
    bits: int
    scale: float
    factors: Mapping[str, tuple[Matrix, Matrix]]  # layer -> A (r, K), B (N, r)

    def delta(self, layer: str) -> Matrix | float:
        """scale · B A (N, K), or 0."""
        if layer not in self.factors:
            return 0.0
        a, b = self.factors[layer]
        product: Matrix = np.float32(self.scale) * (b @ a)
        return product


def _rounded(matrix: Matrix) -> Matrix:
    """To what float16 holds, so that an answer does not depend on how its weights happen to be kept."""
    narrow: Matrix = matrix.astype(np.float16).astype(np.float32)
    return narrow


Kept = NDArray[np.floating[Any]]
Key = tuple[Variant, int, str]


class Weights:
    """Hands out fused matrices (N, K). Not thread-safe: one worker owns it."""

    def __init__(self, store: Store, adapters: Sequence[Adapter] = (), profiles: Sequence[Profile] = ()) -> None:
        self.store = store
        self._widths: dict[float, Mapping[str, int]] = {
            **{bits: dict.fromkeys(store.layers, bits) for bits in store.bits},
            **{profile.bits: profile.widths for profile in profiles},
        }
        self._adapters = {adapter.name: adapter for adapter in adapters}
        self._kept: dict[Key, Kept] = {}
        self._used: dict[Variant, int] = {}
        self._step = 0
        self.kept_bytes = 0
        self.most_bytes = int(PARENT_SHARE * store.payload_bytes()) + SPARE_BYTES

    def variants(self) -> list[Variant]:
        """Every width, those of profiles among them, and every adapter at its own."""
        widths = [Variant(bits) for bits in sorted(self._widths)]
        return widths + [Variant(adapter.bits, adapter.name) for adapter in self._adapters.values()]

    def check(self, variant: Variant) -> None:
        """Raises: Unsupported for a width or adapter that is not here."""
        if variant not in self.variants():
            raise Unsupported(f"no {variant.bits} bits {variant.adapter}; widths are {sorted(self._widths)}")

    def begin_step(self, variants: Sequence[Variant]) -> None:
        """Note what the coming forward pass uses, and let idle widths go."""
        self._step += 1
        self._used.update(dict.fromkeys(variants, self._step))
        idle = [variant for variant, step in self._used.items() if self._step - step > IDLE_STEPS]
        if idle and self.kept_bytes > self.most_bytes // 2:
            for variant in idle:
                self._drop(variant)

    def _drop(self, variant: Variant) -> None:
        for key in [key for key in self._kept if key[0] == variant]:
            self.kept_bytes -= self._kept.pop(key).nbytes
        del self._used[variant]

    def matrix(self, variant: Variant, layer: int, part: str) -> Matrix:
        """One fused matrix of a decoder layer at a width."""
        key = (variant, layer, part)
        kept = self._kept.get(key)
        if kept is not None and kept.dtype == np.float32:
            return kept
        wide = self._build(variant, layer, part) if kept is None else kept.astype(np.float32)
        if self._room(wide.nbytes - (0 if kept is None else kept.nbytes)):
            self._keep(key, pages.copied(wide, np.float32))
        elif kept is None and (self._room(wide.nbytes // 2) or self._narrow(wide.nbytes // 2)):
            self._keep(key, pages.copied(wide, np.float16))
        return wide

    def _room(self, more_bytes: int) -> bool:
        return self.kept_bytes + more_bytes <= self.most_bytes

    def _keep(self, key: Key, matrix: Kept) -> None:
        old = self._kept.get(key)
        self.kept_bytes += matrix.nbytes - (0 if old is None else old.nbytes)
        self._kept[key] = matrix

    def _narrow(self, wanted_bytes: int) -> bool:
        """Make room by keeping float32 rows as float16; whether that was enough."""
        for key, matrix in list(self._kept.items()):
            if self._room(wanted_bytes):
                break
            if matrix.dtype == np.float32:
                self._keep(key, pages.copied(matrix, np.float16))
        return self._room(wanted_bytes)

    def _build(self, variant: Variant, layer: int, part: str) -> Matrix:
        names = [f"model.layers.{layer}.{name}" for name in PARTS[part]]
        pieces = [self.store.dequantize(name, self._widths[variant.bits][name]) for name in names]
        if variant.adapter:
            adapter = self._adapters[variant.adapter]
            pieces = [_rounded(piece + adapter.delta(name)) for piece, name in zip(pieces, names, strict=True)]
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def bias(self, layer: int, part: str) -> Matrix | None:
        """The fused bias (N,), or None where the checkpoint has none."""
        names = [f"model.layers.{layer}.{name}" for name in PARTS[part]]
        if not any(f"{name}.bias" in self.store for name in names):
            return None
        return np.concatenate([self._bias(name) for name in names])

    def _bias(self, name: str) -> Matrix:
        if f"{name}.bias" in self.store:
            return self.store.tensor(f"{name}.bias")
        return np.zeros(self.store.shape(name)[0], np.float32)
