"""How often each hashed n-gram occurs in a text, as bytes to keep. Bytes that are no counts are a ValueError."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import scipy.sparse as sp

Indices = NDArray[np.int64]
Counts = tuple[Indices, NDArray[np.uint8]]

WORD_BITS = 17
CHARACTER_BITS = 17
CJK_BITS = 16
CHARACTERS_AT = 1 << WORD_BITS
CJK_AT = CHARACTERS_AT + (1 << CHARACTER_BITS)
BUCKETS = CJK_AT + (1 << CJK_BITS)

_BEFORE, _AFTER = np.array([-1], np.int32), np.array([BUCKETS], np.int32)


def keyed_places(key: bytes) -> Indices:
    """(BUCKETS,) where each bucket stands under a key: a permutation that nobody can tell without it."""
    drawn = np.frombuffer(hashlib.shake_256(key).digest(8 * BUCKETS), "<u8")
    places = np.empty(BUCKETS, np.int64)
    places[np.argsort(drawn, kind="stable")] = np.arange(BUCKETS)
    return places


def packed_counts(buckets: Indices) -> bytes:
    """Of (m,) buckets, repeats included: the width of a step, the steps from one distinct bucket to the next, and how
    often each occurs, up to 255."""
    found = np.concatenate([_BEFORE, buckets.astype(np.int32), _AFTER])
    found.sort()
    at = np.flatnonzero(found[1:] != found[:-1])  # the last of each
    distinct = found[at]
    steps, times = distinct[1:] - np.maximum(distinct[:-1], 0), np.minimum(at[1:] - at[:-1], 255)
    width = 2 if steps.size == 0 or int(steps.max()) < 1 << 16 else 4
    return b"".join([bytes([width]), steps.astype(f"<u{width}").tobytes(), times.astype(np.uint8).tobytes()])


def unpacked_counts(counts: bytes) -> Counts:
    """(u,) distinct buckets, ascending, and how often each occurs. Raises: ValueError for other bytes."""
    width = counts[0] if counts else 0
    size, left = divmod(len(counts) - 1, width + 1)
    if width not in (2, 4) or left:
        raise ValueError(f"{len(counts)} bytes are no counts")
    buckets = np.frombuffer(counts, f"<u{width}", size, 1).astype(np.int64).cumsum()
    if size and buckets[-1] >= BUCKETS:
        raise ValueError(f"counts name the bucket {buckets[-1]}, expected less than {BUCKETS}")
    return buckets, np.frombuffer(counts, np.uint8, size, 1 + size * width)


def count_matrix(texts: Sequence[bytes]) -> sp.csr_array:
    """(m, BUCKETS) log(1 + count) of each n-gram of each text's counts, in an order of rows that no key and no order of
    arrival changes. Raises: ValueError for other bytes."""
    import scipy.sparse as sp  # noqa: PLC0415 -- only fitting needs it

    rows = [unpacked_counts(text) for text in texts]
    known = np.bincount(np.concatenate([buckets for buckets, _ in rows] or [np.zeros(0, np.int64)]), minlength=BUCKETS)
    rows.sort(key=lambda row: (row[0].size, np.sort(row[1]).tobytes(), np.sort(known[row[0]]).tobytes()))
    lengths = np.array([buckets.size for buckets, _ in rows], np.int64)
    indices = np.concatenate([buckets for buckets, _ in rows] or [np.zeros(0, np.int64)])
    times = np.concatenate([times for _, times in rows] or [np.zeros(0, np.uint8)])
    starts = np.concatenate([np.zeros(1, np.int64), lengths.cumsum()])
    values = np.log1p(times.astype(np.float32))
    return sp.csr_array((values, indices, starts), shape=(len(texts), BUCKETS))


def column_order(counts: sp.csr_array) -> tuple[Indices, Indices]:
    """(v,) places of the columns (m, v), by what stands in the columns: an order that no key changes. And (v,) for each
    column, in that order, the first that equals it."""
    columns = counts.tocsc()
    columns.sort_indices()
    starts, rows, values = columns.indptr.tolist(), columns.indices, columns.data
    content = [rows[at:end].tobytes() + values[at:end].tobytes() for at, end in itertools.pairwise(starts)]
    order = sorted(range(len(content)), key=content.__getitem__)
    first: dict[bytes, int] = {}
    same = [first.setdefault(content[column], place) for place, column in enumerate(order)]
    return np.array(order, np.int64), np.array(same, np.int64)
