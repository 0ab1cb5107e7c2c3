"""Text to unit vectors without a model: hashed n-grams, projected; touches nothing but memory and cannot fail.

Features are word 1–2-grams, character 3–4-grams that stay inside a word, and 1–2-grams of CJK characters, hashed
over the array of code points. Before `fit` a signed sketch of fixed hashes projects them; after it, inverse document
frequencies and a truncated singular value decomposition of the texts it was fitted on. What is kept of a text are the
counts of its n-grams: to fit on, and to embed it anew. Under a key nobody else can say which n-grams they are of.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from backends.embedders.counts import (
    BUCKETS,
    CHARACTERS_AT,
    CJK_AT,
    CJK_BITS,
    WORD_BITS,
    column_order,
    count_matrix,
    keyed_places,
    packed_counts,
    unpacked_counts,
)
from backends.embedders.tables import (
    CJK,
    CLASSES,
    DIGITS,
    INVERSE_POWERS,
    LETTER,
    MAX_CHARACTERS,
    MEMBERS,
    MULTIPLIERS,
    POWERS,
    PUNCTUATION,
)

Integer = TypeVar("Integer", np.int32, np.int64, np.uint32)
Codes = NDArray[np.uint32]
Indices = NDArray[np.int64]
Matrix = NDArray[np.float32]

MOST_BYTES = 32_000_000  # of what fit() learns: the rarest features go first
ID_BYTES = 16
MOST_NOTED = 10_000  # texts that need not be noted again

STEM_CHARACTERS = 2000  # of a question and of its options, looked at for their form

LOGARITHMS = np.log1p(np.arange(4 * MAX_CHARACTERS, dtype=np.float32))  # of one more than each count
ROWS = 512  # of the projection, summed at once

FEATURE_NAMES = (
    "log_characters", "log_plain_characters", "log_cjk_characters", "log_words", "log_lines", "cjk_share",
    "digit_share", "capital_share", "punctuation_share", "space_share", "letters_per_word", "log_digits",
    "question_marks", "money_and_percent", "equals", "brackets", "braces", "underscores", "backslashes", "commas",
    "quotes", "arithmetic", "colons", "choices", "ends_with_answer", "starts_with_question", "code",
    "log_stem", "stem_ends_asking", "stem_ends_closed", "stem_sentences", "stem_copulas", "stem_capitalised_share",
    "stem_distinct_share", "stem_word_length", "stem_longest_word", "negation", "following", "statement", "blank",
    "all_of_the_above", "options", "log_option", "log_longest_option", "log_shortest_option", "option_spread",
    "longest_option_at", "shortest_option_at", "options_with_digits",
)  # fmt: skip


def _codes(text: str) -> Codes:
    """(n,) code points."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)


def _clip(text: str) -> str:
    """The text, or its two ends where it is too long to hash whole."""
    if len(text) <= MAX_CHARACTERS:
        return text
    return text[: MAX_CHARACTERS // 2] + text[-MAX_CHARACTERS // 2 :]


def _word_hashes(codes: Codes, letters: NDArray[np.bool_]) -> Codes:
    """(w,) polynomial hashes of the runs of letters, in order, from one running sum; no letter at either end."""
    edges = np.flatnonzero(letters[1:] != letters[:-1]) + 1
    starts, ends = edges[0::2], edges[1::2]
    sums = (codes * POWERS[: codes.size]).cumsum(dtype=np.uint32)
    hashes = (sums[ends - 1] - sums[starts - 1]) * INVERSE_POWERS[starts]
    hashes = (hashes ^ (hashes >> np.uint32(15))) * MULTIPLIERS[1]
    return np.asarray(hashes ^ (hashes >> np.uint32(16)))


class NGrams(NamedTuple):
    """The hashes (m,) of every n-gram of a text, repeats included: of words, of characters from `inner` on, and of CJK
    characters from `cjk` on."""

    hashes: Codes
    inner: int
    cjk: int

    def buckets(self) -> Indices:
        """(m,) below BUCKETS."""
        found = self.hashes.astype(np.int64)
        found >>= 32 - WORD_BITS
        found[self.inner :] += CHARACTERS_AT
        if self.cjk < found.size:
            found[self.cjk :] = (self.hashes[self.cjk :] >> np.uint32(32 - CJK_BITS)) + np.int64(CJK_AT)
        return found


def _n_grams(text: str) -> NGrams:
    codes = _codes(f" {text} ")
    classes = CLASSES.take(codes)
    letters = classes == LETTER
    words = _word_hashes(codes, letters)
    pairs = words[:-1] * MULTIPLIERS[2] + words[1:] * MULTIPLIERS[3]
    inner = letters | (classes == PUNCTUATION)
    threes = codes[:-2] * MULTIPLIERS[4] + codes[1:-1] * MULTIPLIERS[5] + codes[2:] * MULTIPLIERS[6]
    fours = threes[:-1] + codes[3:] * MULTIPLIERS[7]
    parts = [words * MULTIPLIERS[8], pairs, threes[inner[1:-1]], fours[inner[1:-2] & inner[2:-1]]]
    inner_at = words.size + pairs.size
    cjk_at = inner_at + parts[2].size + parts[3].size
    if not text.isascii():
        cjk = classes == CJK
        singles = codes * MULTIPLIERS[9]
        parts += [singles[cjk], (singles[:-1] + codes[1:] * MULTIPLIERS[10])[cjk[:-1] & cjk[1:]]]
    return NGrams(np.concatenate(parts), inner_at, cjk_at)


def _counts(sorted_values: NDArray[Integer]) -> tuple[NDArray[Integer], Matrix]:
    """(u,) distinct values of a sorted array and (u,) log(1 + how often each occurs)."""
    ends = np.empty(sorted_values.size, np.bool_)
    ends[-1:] = True
    np.not_equal(sorted_values[1:], sorted_values[:-1], out=ends[:-1])
    at = ends.nonzero()[0]
    times = at.copy()
    times[1:] -= at[:-1]
    times[:1] += 1
    return sorted_values[at], LOGARITHMS.take(times)


def _unit(vector: Matrix) -> Matrix:
    """The vector at length one, or zero where it is zero."""
    length = float(np.sqrt(vector @ vector))
    return vector / np.float32(length) if length > 0 else vector


class HashingEmbedder:
    """Hashed n-grams, sublinear counts, a projection to unit rows. Deterministic; one text takes tens of µs.

    `space` names what it was fitted on: vectors of two spaces do not compare. `key` hides which n-grams its counts and
    its state are of; embedders of one key read each other's.
    """

    def __init__(self, dim: int = 256, *, key: bytes = b"") -> None:
        self.space = ""
        self._dim = dim
        self._places = (
            keyed_places(key) if key else None
        )  # (BUCKETS,) where each bucket stands in counts and in a state
        self._signs = np.array([-1.0, 1.0], np.float32)
        self._rows: NDArray[np.int32] | None = None  # (BUCKETS,) row of the projection, the last row for none
        self._projection: NDArray[np.int8] = np.zeros((0, dim), np.int8)  # (v + 1, dim), the last row zero
        self._scales: Matrix = np.zeros(0, np.float32)  # (v + 1,) what one step of a row is worth, idf included
        self._kept: NDArray[np.int32] = np.zeros(0, np.int32)  # (v,) places of the features
        self._key = key
        self._noted: OrderedDict[tuple[str, bytes], None] = OrderedDict()
        self.noted: dict[str, dict[str, bytes]] = {}  # counts that wait to be kept, by owner and id of the text
        self._last: tuple[str, NGrams] = "", NGrams(np.zeros(0, np.uint32), 0, 0)  # the text embedded last

    @property
    def is_local(self) -> bool:
        """It touches nothing but memory."""
        return True

    @property
    def dim(self) -> int:
        """d."""
        return self._dim

    async def embed(self, texts: Sequence[str]) -> Matrix:
        """(m, d) float32, unit rows (a text with no features gives a zero row)."""
        return self.embed_now(texts)

    def embed_now(self, texts: Sequence[str]) -> Matrix:
        """The same without an event loop."""
        out = np.zeros((len(texts), self._dim), np.float32)
        for row, text in enumerate(texts):
            out[row] = self.embed_one(text)
        return out

    def embed_one(self, text: str) -> Matrix:
        """(d,) float32, of unit length or zero."""
        found = _n_grams(_clip(text.lower()))
        self._last = text, found
        if found.hashes.size == 0:
            return np.zeros(self._dim, np.float32)
        return _unit(self._sketch(found.hashes) if self._rows is None else self._project(self._rows, found.buckets()))

    def counts(self, text: str) -> bytes:
        """The n-grams of a text as fit_counts() and embed_counts() take them; free of hashing after embed_one(text)."""
        last, found = self._last
        if last != text:
            found = _n_grams(_clip(text.lower()))
        buckets = found.buckets()
        return packed_counts(buckets if self._places is None else self._places.take(buckets))

    def id_of(self, text: str) -> bytes:
        """(16,) bytes that say nothing to whoever has not the key."""
        return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=ID_BYTES, key=self._key).digest()

    def note(self, owner: str, text: str) -> bytes:
        """(16,) the id of a text under the key. Its counts wait in `noted`, unless they did lately."""
        text_id = self.id_of(text)
        if (owner, text_id) not in self._noted:
            self._noted[owner, text_id] = None
            self.noted.setdefault(owner, {})[text_id.hex()] = self.counts(text)
            if len(self._noted) > MOST_NOTED:
                self._noted.popitem(last=False)
        return text_id

    def embed_counts(self, counts: Sequence[bytes]) -> Matrix:
        """(m, d) float32: as the texts they are of; zero rows before fit(). Raises: ValueError for other bytes."""
        out = np.zeros((len(counts), self._dim), np.float32)
        if self._rows is None:
            return out
        rows = np.full(BUCKETS, self._kept.size, np.int32)  # by place
        rows[self._kept] = np.arange(self._kept.size, dtype=np.int32)
        for row, each in enumerate(counts):
            places, times = unpacked_counts(each)
            at = rows.take(places)
            order = at.argsort(kind="stable")
            order = order[
                : at[order].searchsorted(self._kept.size) + 1
            ]  # of those that are not kept one, as _project has
            at = at[order]
            out[row] = _unit(self._summed(at, np.log1p(times[order].astype(np.float32)) * self._scales.take(at)))
        return out

    def features(self, text: str) -> Matrix:
        """(f,) surface features, named by FEATURE_NAMES: lengths, shares and marks of form."""
        return surface_features(text)

    def fit(self, texts: Sequence[str]) -> None:
        """Learn idf and projection; a feature in fewer than two or over 60% of the texts is dropped.

        Embeddings from before and after do not compare: whoever holds an index rebuilds it.
        """
        self.fit_counts([self.counts(text) for text in texts])

    def fit_counts(self, texts: Sequence[bytes]) -> None:
        """The same from counts. What comes of it depends on the texts and neither on their order nor on the key: so a
        gateway and a replay of its log have one space. Raises: ValueError for other bytes."""
        import scipy.sparse as sp  # noqa: PLC0415 -- as what follows, tens of MB that only fitting needs

        counts = count_matrix(texts)
        documents = np.bincount(counts.indices, minlength=BUCKETS)
        kept = self._worth_keeping(documents, len(texts))
        rank = min(self._dim, len(texts) - 1, kept.size - 1)
        if rank < 1:
            return
        order, same = column_order(counts[:, kept])
        kept = kept[order]
        idf = np.log(len(texts) / documents[kept]).astype(np.float32)
        weighted = counts[:, kept] @ sp.diags_array(idf)
        weighted.sort_indices()  # sums are of one order too
        lengths = np.sqrt(np.asarray(weighted.multiply(weighted).sum(axis=1)).ravel())
        unit = sp.diags_array((1.0 / np.maximum(lengths, 1e-12)).astype(np.float32)) @ weighted
        unit.sort_indices()
        from sklearn.utils.extmath import randomized_svd  # noqa: PLC0415 -- sklearn is 120 MB that only fitting needs

        _, _, axes = randomized_svd(unit, rank, n_iter=4, random_state=0)
        axes = axes[:, same]
        projection = np.zeros((kept.size + 1, self._dim), np.int8)
        scales = np.append(np.abs(axes).max(axis=0) / 127.0, 0.0).astype(np.float32)
        projection[:-1, :rank] = np.rint(axes.T / np.maximum(scales[:-1, None], 1e-30))
        scales[:-1] *= idf
        self.restore({"kept": kept.astype(np.int32), "projection": projection, "scales": scales})

    def _worth_keeping(self, documents: Indices, count: int) -> Indices:
        """(v,) places of features that are neither too rare nor too common, as many as MOST_BYTES hold."""
        kept = np.flatnonzero((documents >= 2) & (documents <= max(2.0, 0.6 * count)))
        most = MOST_BYTES // (self._dim + 8) - 1
        return kept if kept.size <= most else np.sort(kept[np.argsort(-documents[kept], kind="stable")[:most]])

    def state(self) -> Mapping[str, NDArray[np.generic]]:
        """What fit() learned; empty before it."""
        if self._rows is None:
            return {}
        return {"kept": self._kept, "projection": self._projection, "scales": self._scales}

    def restore(self, state: Mapping[str, NDArray[np.generic]], *, space: str = "") -> None:
        """Inverse of state(); arrays mapped from a file stay there. Raises: ValueError, KeyError where the state does
        not fit, and then everything is as it was."""
        if not state:
            self._rows, self.space = None, ""
            return
        kept, projection = np.asarray(state["kept"], np.int32), np.asarray(state["projection"], np.int8)
        scales = np.asarray(state["scales"], np.float32)
        if projection.shape != (kept.size + 1, self._dim) or scales.shape != (kept.size + 1,):
            raise ValueError(f"a state of {projection.shape} and {scales.shape} does not fit {self._dim} dimensions")
        if kept.size and not (kept.min() >= 0 and kept.max() < BUCKETS and np.unique(kept).size == kept.size):
            raise ValueError("a state's features are not distinct places")
        rows = np.full(BUCKETS, kept.size, np.int32)
        rows[kept] = np.arange(kept.size, dtype=np.int32)
        self._rows = rows if self._places is None else rows.take(self._places)
        self._kept, self._projection, self._scales, self.space = kept, projection, scales, space

    def _project(self, rows: NDArray[np.int32], buckets: Indices) -> Matrix:
        found = rows.take(buckets)
        found.sort()
        at, weights = _counts(found)
        weights *= self._scales.take(at)
        return self._summed(at, weights)

    def _summed(self, at: NDArray[np.int32], weights: Matrix) -> Matrix:
        """(d,) rows of the projection by their weights, in the order in which fit() left them under every key."""
        total = np.zeros(self._dim, np.float32)
        for start in range(0, at.size, ROWS):  # as many rows as a core's own cache holds
            part = slice(start, start + ROWS)
            total += weights[part] @ self._projection.take(at[part], axis=0).astype(np.float32)
        return total

    def _sketch(self, hashes: Codes) -> Matrix:
        at, weights = _counts(np.sort(hashes))
        mixed = at * MULTIPLIERS[11]
        weights *= self._signs.take(mixed & np.uint32(1))
        places = (mixed >> np.uint32(1)) % np.uint32(self._dim)
        return np.bincount(places, weights, minlength=self._dim).astype(np.float32)


def surface_features(text: str) -> Matrix:
    """(f,) what a glance at the form of a text says, named by FEATURE_NAMES: at its length, its last words, and else at
    its first MAX_CHARACTERS. All finite; an empty text is all zero."""
    if not text:
        return np.zeros(len(FEATURE_NAMES), np.float32)
    head = text[:MAX_CHARACTERS]
    codes = _codes(head)
    counts = MEMBERS @ np.bincount(np.minimum(codes, 128), minlength=129).astype(np.float32)
    lines, digits, *marks, capitals = counts.tolist()
    classes = CLASSES.take(codes)
    space, punctuation, letters, cjk = np.bincount(classes, minlength=4).tolist()
    runs = classes == LETTER
    words = int(np.count_nonzero(runs[1:] > runs[:-1])) + int(runs[0])
    total = len(head)
    logs = np.log1p(np.array([len(text), len(text) - cjk, cjk, words, lines, digits, *marks], np.float32))
    shares = [cjk / total, digits / total, capitals / total, punctuation / total, space / total]
    shares.append(min(letters / max(words, 1), 20.0))
    return np.concatenate([logs[:5], shares, logs[5:], _forms(head, text[-12:]), _question(head)], dtype=np.float32)


def _forms(text: str, end: str) -> list[float]:
    """Lettered choices, an ending that asks for the answer, a beginning that says question, signs of code."""
    choices = ("\nA" in text) + ("\nB" in text) + ("\nD" in text)
    ends = end.strip().lower().endswith(("answer:", "答案：", "答案:"))
    code = ("def " in text) + ("python" in text) + ("function" in text) + ("assert" in text)
    return [float(choices), float(ends), float(text[:12].strip().lower().startswith("question")), float(code)]


def _question(text: str) -> list[float]:
    """The form of what comes before lettered options, and of the options."""
    at = text.find("\nA")
    stem = (text if at < 0 else text[:at])[:STEM_CHARACTERS].rstrip()
    low, words = stem.lower(), stem.split()
    lengths = [len(word) for word in words] or [0]
    named = sum(word[0].isupper() for word in words[1:])
    count = len(lengths)
    return [
        math.log1p(len(stem)),
        float(stem.endswith("?")),
        float(stem.endswith(".")),
        float(stem.count(".")),
        float(low.count(" is ") + low.count(" are ")),
        named / count,
        len(set(words)) / count,
        sum(lengths) / count,
        float(max(lengths)),
        float(" not " in low or "except" in low),
        float("following" in low),
        float("statement" in low),
        float("____" in text),
        float("the above" in text.lower()),
        *_options("" if at < 0 else text[at + 1 :]),
    ]


def _options(text: str) -> list[float]:
    """How many lettered options, how long, which are longest and shortest, and how many hold digits."""
    lines = text[:STEM_CHARACTERS].split("\n")[:8]
    options = [line[2:].strip() for line in lines if len(line) > 2 and line[0] in "ABCDE"][:5]
    if not options:
        return [0.0] * 8
    lengths = [len(option) for option in options]
    mean, longest, shortest = sum(lengths) / len(lengths), max(lengths), min(lengths)
    spread = math.sqrt(sum((length - mean) ** 2 for length in lengths) / len(lengths)) / (mean + 1.0)
    digits = sum(any(character in DIGITS for character in option) for option in options)
    logs = [math.log1p(mean), math.log1p(longest), math.log1p(shortest)]
    places = [float(lengths.index(longest)), float(lengths.index(shortest)), float(digits)]
    return [float(len(options)), *logs, spread, *places]
