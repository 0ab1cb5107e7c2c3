"""What each model earned and cost on each judged query; row i belongs to index id i.

Costs are read at the prices of now: what an answer cost under an earlier list price is scaled by what its tokens cost
today. A stored table that does not fit is a ValueError or KeyError.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from policies.stored_answers import STORED
from policies.types import Arm, Float, History, LoggedContext, Neighbours
from router.learning.arrays import load_arrays, save_arrays

A_PAGE = 500  # texts encoded at once for a snapshot
MOST_OWN = 4_096  # of a tenant's latest queries, looked through for those nearest
Similarity = NDArray[np.float32]
MOST_KEPT = 256  # sets of arms whose columns are remembered
NAN = float("nan")
PROMPT, COMPLETION = 0, 1
ID_BYTES = 16


class _Columns:
    """Where a set of arms stands in the table."""

    __slots__ = ("arms", "places", "repriced", "stamp", "unseen")

    def __init__(self, arms: Sequence[Arm], places: list[int] | None, repriced: list[int], stamp: int) -> None:
        self.arms, self.stamp = arms, stamp
        self.unseen = [] if places is None else [at for at, place in enumerate(places) if place < 0]  # nowhere in it
        self.places = places  # (n,); None: all of them in order
        self.repriced = repriced  # of the arms, those that answered at another price than theirs of now


class OutcomeTable:
    """Grows by a row for each query that is judged."""

    def __init__(self, dim: int) -> None:
        self._size, self._dim = 0, dim
        self._columns: dict[str, int] = {}
        self._seen = np.empty((0, 2, 0), np.float32)  # (capacity, 2, M) score and USD; NaN where never observed
        self._embeddings = np.empty((0, dim), np.float16)
        self._lengths = np.empty((0, 2), np.int64)  # prompt tokens, prompt characters
        self._weights = np.empty(0, np.float32)  # reliability of the scores
        self._is_weighted = False  # whether any of them is not 1
        self._paid = np.empty((0, 3))  # list prices of a prompt and a completion token, USD, and completion tokens
        self._features: NDArray[np.float32] | None = None
        self._owners = np.empty(0, np.int32)  # (capacity,) whose query a row is: a number of _tenants
        self._tenants: dict[str, int] = {}
        self._prices: dict[str, set[tuple[float, float]]] = {}  # that each model ever answered at
        self._places: dict[int, _Columns] = {}  # by identity of the arms
        self._stamp = 0  # of columns and prices
        self._fitted: dict[str, int] = {}  # judged answers of each model when policies were last fitted …
        self._since: dict[str, int] = {}  # … and judgements since
        self._text_ids = np.zeros((0, ID_BYTES), np.uint8)  # under which counts of the texts are kept; zero: none are
        self.texts: list[str] = []

    def __len__(self) -> int:
        return self._size

    def append(self, context: LoggedContext, text: str = "", text_id: bytes = b"") -> int:
        """A new row with nothing observed yet; returns its number."""
        row, self._size = self._size, self._size + 1
        self._fit(self._size)
        self._embeddings[row] = context.embedding
        self._lengths[row] = context.prompt_tokens, context.prompt_characters
        self._owners[row] = self._tenants.setdefault(context.tenant, len(self._tenants))
        self.texts.append(text)
        if len(text_id) == ID_BYTES:
            self._text_ids[row] = np.frombuffer(text_id, np.uint8)
        if context.features is not None:
            if self._features is None:
                self._features = np.zeros((len(self._seen), len(context.features)), np.float32)
            if len(context.features) == self._features.shape[1]:
                self._features[row] = context.features
        return row

    def observe(self, row: int, arm: Arm, *, score: float, cost: float, tokens: int = 0, weight: float = 1.0) -> None:
        """What one answer earned and cost; a later judgement replaces an earlier one."""
        column = self._column(arm.name)
        self._seen[row, :, column] = score, cost
        self._weights[row] = weight
        self._is_weighted |= weight != 1.0
        self._since[arm.name] = self._since.get(arm.name, 0) + 1
        prices = arm.prompt_price, arm.completion_price
        self._paid[row] = *prices, tokens
        if prices not in (known := self._prices.setdefault(arm.name, set())):
            known.add(prices)
            self._stamp += 1

    def label(self, row: int, *, scores: Mapping[str, float], costs: Mapping[str, float]) -> None:
        """What every one of these models earned and cost, in USD whatever the prices are now."""
        for model, score in scores.items():
            column = self._column(model)
            self._seen[row, :, column] = score, costs[model]

    def fitted(self) -> None:
        """Policies are fitted on what is here now."""
        seen = (~np.isnan(self._seen[: self._size, 0])).sum(axis=0).tolist()
        self._fitted = {name: seen[column] for name, column in self._columns.items()}
        self._since = {}

    def has_doubled(self, few: int, established: int) -> bool:
        """Whether the judgements of a model that had fewer than `established` have doubled since, and are a `few`."""
        return any(
            before < established and since >= max(few, before)
            for name, since in self._since.items()
            for before in (self._fitted.get(name, 0),)
        )

    @property
    def text_ids(self) -> list[tuple[str, bytes]]:
        """(N,) whose text each row is of, and under which id its counts are kept; b"" where none are."""
        names, ids = self.tenants, self._text_ids[: self._size]
        found = zip(self._owners[: self._size].tolist(), ids, strict=True)
        return [(names[owner], each.tobytes() if each.any() else b"") for owner, each in found]

    @property
    def embeddings(self) -> NDArray[np.float16]:
        """(N, d)."""
        return self._embeddings[: self._size]

    def moved(self, embeddings: NDArray[np.float32]) -> OutcomeTable:
        """The same rows at other embeddings (N, d)."""
        other = copy.copy(self)
        other._embeddings = self._embeddings.copy()
        other._embeddings[: self._size] = embeddings
        return other

    def without(self, tenant: str) -> tuple[OutcomeTable, NDArray[np.int64]]:
        """The rows of all others, and (N,) where each row is now; −1 where it is gone."""
        stays = self._owners[: self._size] != self.place_of(tenant)
        other = copy.copy(self)
        for name in ("_seen", "_embeddings", "_lengths", "_weights", "_paid", "_owners", "_text_ids", "_features"):
            if (array := getattr(self, name)) is not None:
                setattr(other, name, array[: self._size][stays])
        other._size, other.texts = int(stays.sum()), [t for t, stay in zip(self.texts, stays, strict=True) if stay]
        return other, np.where(stays, stays.cumsum() - 1, -1)

    def neighbours(self, rows: NDArray[np.int64], similarity: NDArray[np.float32], arms: tuple[Arm, ...]) -> Neighbours:
        """What `arms` (n,) earned and cost on `rows` (k,)."""
        columns = self._at(arms)
        seen = self._seen.take(rows, axis=0)  # (k, 2, M): whole rows, half the price
        if columns.places is not None:
            seen = seen[:, :, columns.places]
        scores, costs = seen.transpose(1, 2, 0).astype(np.float64, order="C")  # (n, k) each, as they are summed
        for place in columns.unseen:
            scores[place] = costs[place] = NAN
        for place in columns.repriced:
            costs[place] *= self._scale(rows, arms[place], costs[place])
        return Neighbours(similarity, scores.T, costs.T, self._weights.take(rows) if self._is_weighted else None)

    def as_long(self, found: Neighbours, rows: NDArray[np.int64], asked: LoggedContext) -> Neighbours:
        """What these neighbours would have cost had their prompts been as long as the one asked.

        Turns of a conversation are alike, and each is longer than the one before. Where nobody counted the tokens of a
        completion, the costs stay, but for the tokens between both lengths.
        """
        if asked.cached is None:
            return found
        listed = np.array([(arm.prompt_price, arm.completion_price) for arm in asked.arms]).reshape(-1, 2)
        prices = listed[:, PROMPT] if asked.counted is None else listed[:, PROMPT] * asked.counted
        tokens, read = self._paid[rows, 2:], asked.prompt_tokens * prices
        longer = found.costs + np.outer(asked.prompt_tokens - self._lengths[rows, 0], prices)
        costs = np.where(tokens > 0, read + tokens * listed[:, COMPLETION], np.maximum(longer, read))
        stays = np.isnan(found.costs) | np.array([arm.varies for arm in asked.arms], np.bool_)
        return msgspec.structs.replace(found, costs=np.where(stays, found.costs, costs))

    def nearest_own(
        self, tenant: str, query: NDArray[np.float32], limit: int, *, most: int = MOST_OWN
    ) -> tuple[NDArray[np.int64], Similarity]:
        """Rows (<= limit,) of this tenant's latest queries nearest to `query` (d,), and their similarity. They do not
        depend on what others asked. Takes milliseconds; may run in a thread while rows are added."""
        owners, embeddings = self._owners[: self._size], self._embeddings
        own = np.flatnonzero(owners == self._tenants.get(tenant, -2))[-most:]
        similarity = embeddings[own].astype(np.float32) @ query
        order = np.argsort(-similarity, kind="stable")[:limit]
        return own[order], similarity[order]

    @property
    def tenants(self) -> tuple[str, ...]:
        """(t,) whose queries the rows are; a row's owner is a place here."""
        return tuple(self._tenants)

    @property
    def count_tenants(self) -> int:
        """t."""
        return len(self._tenants)

    def place_of(self, tenant: str) -> int:
        """Its place in `tenants`; −1 where it has no row."""
        return self._tenants.get(tenant, -1)

    def owners(self, rows: NDArray[np.int64] | slice) -> NDArray[np.int32]:
        """Whose query each of these rows is."""
        return self._owners[: self._size][rows]

    def history(self, arms: Sequence[Arm]) -> History:
        """All rows, for a refit. Copies, so that a thread may read it."""
        columns = self._at(tuple(arms))
        places = slice(None) if columns.places is None else columns.places
        n, every = self._size, np.arange(self._size)
        costs, scores = (self._seen[:n, of, places].astype(np.float64) for of in (1, 0))
        for place in columns.unseen:
            costs[:, place] = scores[:, place] = NAN
        for place in columns.repriced:
            costs[:, place] *= self._scale(every, arms[place], costs[:, place])
        return History(
            embeddings=self._embeddings[:n].astype(np.float32),
            arms=tuple(arms),
            scores=scores,
            costs=costs,
            prompt_tokens=self._lengths[:n, 0].copy(),
            prompt_characters=self._lengths[:n, 1].copy(),
            features=None if self._features is None else self._features[:n].copy(),
            weights=self._weights[:n].astype(np.float64) if self._is_weighted else None,
        )

    def _scale(self, rows: NDArray[np.int64], arm: Arm, costs: Float) -> Float:
        """(k,) what the tokens of these answers cost at the arm's prices of now, by what they cost then."""
        then, tokens = self._paid[rows, :2], self._paid[rows, 2]
        prompt = self._lengths[rows, 0]
        was = then[:, PROMPT] * prompt + then[:, COMPLETION] * tokens
        now = arm.prompt_price * prompt + arm.completion_price * tokens
        same = (then[:, PROMPT] == arm.prompt_price) & (then[:, COMPLETION] == arm.completion_price)
        keeps = same | np.isnan(costs) | ~(was > 0.0)
        return np.where(keeps, 1.0, now / np.where(keeps, 1.0, was))

    def _at(self, arms: tuple[Arm, ...]) -> _Columns:
        known = self._places.get(id(arms))
        if known is not None and known.arms is arms and known.stamp == self._stamp:
            return known
        places = [-1 if arm.name.startswith(STORED) else self._column(arm.name) for arm in arms]
        repriced = [
            place
            for place, arm in enumerate(arms)
            if self._prices.get(arm.name, set()) - {(arm.prompt_price, arm.completion_price)}
        ]
        whole = places == list(range(len(self._columns)))
        if len(self._places) >= MOST_KEPT:
            self._places.clear()
        found = self._places[id(arms)] = _Columns(arms, None if whole else places, repriced, self._stamp)
        return found

    def save(self, folder: Path) -> None:
        """Write `table.npz` and `texts.jsonl`. Raises: OSError."""
        n = self._size
        arrays: dict[str, NDArray[Any]] = {
            "models": np.array(list(self._columns), dtype=np.str_),
            "scores": self._seen[:n, 0],
            "costs": self._seen[:n, 1],
            "embeddings": self._embeddings[:n],
            "lengths": self._lengths[:n],
            "owners": self._owners[:n],
            "tenants": np.array(list(self._tenants), dtype=np.str_),
            "weights": self._weights[:n],
            "paid": self._paid[:n],
            "text_ids": self._text_ids[:n],
            "fitted": np.array([(self._fitted.get(name, 0), self._since.get(name, 0)) for name in self._columns]),
        }
        if self._features is not None:
            arrays["features"] = self._features[:n]
        save_arrays(folder / "table.npz", arrays)
        with (folder / "texts.jsonl").open("w") as file:
            for start in range(0, n, A_PAGE):  # a JSON list in each line: encoding holds up every other thread
                file.write(json.dumps(self.texts[start : min(start + A_PAGE, n)]) + "\n")

    def load(self, folder: Path) -> None:
        """Inverse of save. Raises: OSError, ValueError, KeyError."""
        stored = load_arrays(folder / "table.npz")
        self._columns = {str(name): i for i, name in enumerate(stored["models"])}
        self._seen = np.stack([stored["scores"], stored["costs"]], axis=1)
        self._embeddings, self._lengths = stored["embeddings"], stored["lengths"]
        self._weights, self._paid = stored["weights"], stored["paid"]
        self._owners = stored["owners"]
        self._tenants = {str(name): i for i, name in enumerate(stored["tenants"])}
        self._features = stored.get("features")
        self._text_ids = stored["text_ids"]
        pairs = zip(self._columns, stored["fitted"].reshape(-1, 2).tolist(), strict=True)
        known = [(name, int(fitted), int(since)) for name, (fitted, since) in pairs]
        self._fitted = {name: fitted for name, fitted, _ in known}
        self._since = {name: since for name, _, since in known}
        self._size, self._is_weighted = len(self._seen), bool((self._weights != 1.0).any())
        self._recall_prices()
        pages = (folder / "texts.jsonl").read_text().splitlines()
        self.texts = [text for page in pages for text in msgspec.json.decode(page, type=list[str])]
        self._must_fit()

    def _must_fit(self) -> None:
        """Raises: ValueError where what was loaded is of other shapes than a table's."""
        n = self._size
        shapes = [each.shape for each in (self._seen, self._embeddings, self._lengths, self._paid)]
        flat = [each.shape for each in (self._weights, self._owners)]
        shapes += [self._text_ids.shape]
        if shapes != [(n, 2, len(self._columns)), (n, self._dim), (n, 2), (n, 3), (n, ID_BYTES)] or flat != [
            (n,),
            (n,),
        ]:
            raise ValueError(f"{n} rows of the stored table are {shapes} and {flat}")
        if len(self.texts) != n or not (self._owners < len(self._tenants)).all():
            raise ValueError(
                f"{n} rows of the stored table have {len(self.texts)} texts of {len(self._tenants)} tenants"
            )

    def _recall_prices(self) -> None:
        """The prices that each model answered at, from the rows."""
        self._prices, self._places = {}, {}
        for name, column in self._columns.items():
            answered = ~np.isnan(self._seen[:, 0, column])
            pairs = np.unique(self._paid[answered, :2], axis=0).tolist()
            self._prices[name] = {(prompt, completion) for prompt, completion in pairs}
        self._stamp += 1

    def _column(self, model: str) -> int:
        column = self._columns.get(model)
        if column is None:
            column = self._columns[model] = len(self._columns)
            unseen = np.full((len(self._seen), 2, 1), np.nan, np.float32)
            self._seen = np.concatenate([self._seen, unseen], axis=2)
            self._stamp += 1
        return column

    def _fit(self, rows: int) -> None:
        if rows <= len(self._seen):
            return
        more = max(256, len(self._seen))  # double
        self._seen = np.vstack([self._seen, np.full((more, *self._seen.shape[1:]), np.nan, np.float32)])
        self._embeddings = np.vstack([self._embeddings, np.zeros((more, self._embeddings.shape[1]), np.float16)])
        self._lengths = np.vstack([self._lengths, np.zeros((more, 2), np.int64)])
        self._weights = np.concatenate([self._weights, np.ones(more, np.float32)])
        self._owners = np.concatenate([self._owners, np.full(more, -1, np.int32)])
        self._paid = np.vstack([self._paid, np.zeros((more, 3))])
        self._text_ids = np.vstack([self._text_ids, np.zeros((more, ID_BYTES), np.uint8)])
        if self._features is not None:
            self._features = np.vstack([self._features, np.zeros((more, self._features.shape[1]), np.float32)])
