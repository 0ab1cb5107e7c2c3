"""The outcome log turned into an index of past queries and the state of every policy.

Each replica follows the same log in the same order, so each arrives at the same views. A snapshot is a cached view with
its log position; a missing or unreadable snapshot costs a replay of the log and nothing else.
"""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from policies.float16_embedding import Float16Embedding
from policies.types import Arm, Estimates, History, Neighbours, Outcome, Snapshot, StoredPolicy
from router.learning.index import FaissIndex
from router.learning.machine_time import MachineTimeAccounting
from router.ports import OutcomeLog
from router.types import NANO_PER_USD, DecisionRecord, Feedback, LogEntry, SettlementRecord

T = TypeVar("T")

LOG = logging.getLogger("pointsman.learning")
AT_ONCE = 32  # entries taken in between two turns of the loop: a millisecond or two
NAN = float("nan")
MOST_OWN = 4_096  # of a tenant's latest queries, looked through for those nearest
Similarity = NDArray[np.float32]
A_PAGE = 500  # texts or decisions encoded at once for a snapshot
OPEN_DECISIONS = 20_000  # decisions that may still be judged, about a kilobyte each; the oldest is forgotten first

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(DecisionRecord).decode


class OutcomeTable:
    """What each model earned and cost on each judged query; row i belongs to index id i."""

    def __init__(self, dim: int) -> None:
        self._size = 0
        self._columns: dict[str, int] = {}
        self._names: tuple[str, ...] = ()  # of the columns, in order
        self._seen = np.empty((0, 2, 0), np.float32)  # (capacity, 2, M) score and USD; NaN where never observed
        self._embeddings = np.empty((0, dim), np.float16)
        self._lengths = np.empty((0, 2), np.int64)  # prompt tokens, prompt characters
        self._features: NDArray[np.float32] | None = None
        self._owners = np.empty(0, np.int32)  # (capacity,) whose query a row is: a number of _tenants; −1: unknown
        self._tenants: dict[str, int] = {}
        self.texts: list[str] = []

    def __len__(self) -> int:
        return self._size

    def append(self, record: DecisionRecord, embedding: NDArray[np.float32]) -> int:
        """A new row with nothing observed yet; returns its number."""
        row, self._size = self._size, self._size + 1
        self._fit(self._size)
        self._embeddings[row] = embedding
        self._lengths[row] = record.prompt_tokens, record.prompt_characters
        self._owners[row] = self._tenants.setdefault(record.tenant, len(self._tenants))
        self.texts.append(record.text)
        if record.features:
            features = np.frombuffer(record.features, "<f4")
            if self._features is None:
                self._features = np.zeros((len(self._seen), len(features)), np.float32)
            if len(features) == self._features.shape[1]:
                self._features[row] = features
        return row

    def observe(self, row: int, model: str, *, score: float, cost: float) -> None:
        """Set one cell; a later judgement replaces an earlier one."""
        column = self._column(model)
        self._seen[row, :, column] = score, cost

    def neighbours(self, rows: NDArray[np.int64], similarity: NDArray[np.float32], models: Sequence[str]) -> Neighbours:
        """What `models` (n,) earned and cost on `rows` (k,)."""
        asked = tuple(models)
        columns = None if asked == self._names else [self._column(model) for model in asked]
        seen = self._seen.take(rows, axis=0)  # (k, 2, M): whole rows, half the price
        if columns is not None:
            seen = seen[:, :, columns]
        scores, costs = seen.transpose(1, 2, 0).astype(np.float64, order="C")  # (n, k) each, as they are summed
        return Neighbours(similarity, scores.T, costs.T)

    def nearest_own(self, tenant: str, query: NDArray[np.float32], limit: int) -> tuple[NDArray[np.int64], Similarity]:
        """Rows (<= limit,) of this tenant's latest queries nearest to `query` (d,), and their similarity. They do not
        depend on what others asked. Takes milliseconds; may run in a thread while rows are added."""
        owners, embeddings = self._owners[: self._size], self._embeddings
        own = np.flatnonzero(owners == self._tenants.get(tenant, -2))[-MOST_OWN:]
        similarity = embeddings[own].astype(np.float32) @ query
        order = np.argsort(-similarity, kind="stable")[:limit]
        return own[order], similarity[order]

    def history(self, arms: Sequence[Arm]) -> History:
        """All rows, for a refit. Copies, so that a thread may read it."""
        columns = [self._column(arm.name) for arm in arms]
        n = self._size
        return History(
            embeddings=self._embeddings[:n].astype(np.float32),
            arms=tuple(arms),
            scores=self._seen[:n, 0, columns].astype(np.float64),
            costs=self._seen[:n, 1, columns].astype(np.float64),
            prompt_tokens=self._lengths[:n, 0].copy(),
            prompt_characters=self._lengths[:n, 1].copy(),
            features=None if self._features is None else self._features[:n].copy(),
        )

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
        }
        if self._features is not None:
            arrays["features"] = self._features[:n]
        np.savez(folder / "table.npz", allow_pickle=False, **arrays)
        with (folder / "texts.jsonl").open("w") as file:
            for start in range(0, n, A_PAGE):  # a JSON list in each line: encoding holds up every other thread
                file.write(json.dumps(self.texts[start : min(start + A_PAGE, n)]) + "\n")

    def load(self, folder: Path) -> None:
        """Inverse of save. Raises: OSError, ValueError, KeyError."""
        with np.load(folder / "table.npz") as stored:
            self._columns = {str(name): i for i, name in enumerate(stored["models"])}
            self._names = tuple(self._columns)
            self._seen = np.stack([stored["scores"], stored["costs"]], axis=1)
            self._embeddings, self._lengths = stored["embeddings"], stored["lengths"]
            self._features = stored["features"] if "features" in stored.files else None
            names = stored["tenants"].tolist() if "tenants" in stored.files else []
            self._tenants = {name: i for i, name in enumerate(names)}
            self._owners = stored["owners"] if names else np.full(len(self._seen), -1, np.int32)
        self._size = len(self._seen)
        old = folder / "texts.json"  # of earlier versions
        pages = [old.read_text()] if old.exists() else (folder / "texts.jsonl").read_text().splitlines()
        self.texts = [text for page in pages for text in json.loads(page)]

    def _column(self, model: str) -> int:
        column = self._columns.get(model)
        if column is None:
            column = self._columns[model] = len(self._columns)
            self._names = tuple(self._columns)
            unseen = np.full((len(self._seen), 2, 1), np.nan, np.float32)
            self._seen = np.concatenate([self._seen, unseen], axis=2)
        return column

    def _fit(self, rows: int) -> None:
        if rows <= len(self._seen):
            return
        more = max(256, len(self._seen))  # double
        self._seen = np.vstack([self._seen, np.full((more, *self._seen.shape[1:]), np.nan, np.float32)])
        self._embeddings = np.vstack([self._embeddings, np.zeros((more, self._embeddings.shape[1]), np.float16)])
        self._lengths = np.vstack([self._lengths, np.zeros((more, 2), np.int64)])
        self._owners = np.concatenate([self._owners, np.full(more, -1, np.int32)])
        if self._features is not None:
            self._features = np.vstack([self._features, np.zeros((more, self._features.shape[1]), np.float32)])


_Stored = tuple[bytes, float, int, bytes, bool, int]
_decode_stored = msgspec.msgpack.Decoder(dict[str, _Stored]).decode


@dataclass(slots=True)
class _Open:
    """A decision that may still be settled or judged; once settled it is kept packed, in a third of the memory."""

    _record: DecisionRecord | bytes
    cost: float = float("nan")  # USD
    completion_tokens: int = 0
    signature: bytes = b""
    judged_by_user: bool = False
    row: int = -1  # in the table, once judged

    @property
    def record(self) -> DecisionRecord:
        return _decode(self._record) if isinstance(self._record, bytes) else self._record

    def pack(self) -> None:
        if not isinstance(self._record, bytes):
            self._record = _encode(self._record)

    def stored(self) -> _Stored:
        """For a snapshot."""
        record = self._record if isinstance(self._record, bytes) else _encode(self._record)
        return record, self.cost, self.completion_tokens, self.signature, self.judged_by_user, self.row


Refit = Callable[[str, dict[str, NDArray[Any]], History], Awaitable[dict[str, NDArray[Any]]]]
"""The state of a named policy after refit(history), from the state it has now."""


class Learning:
    """Follows the log and keeps index, table and policies up to date.

    `learned` counts judgements taken in, `position` is the log position reached.
    """

    def __init__(
        self,
        *,
        log: OutcomeLog,
        index: FaissIndex,
        policies: Mapping[str, StoredPolicy],
        build: Callable[[str], StoredPolicy],
        refit: Refit,
        arms: Callable[[], Sequence[Arm]],
        folder: Path | None,
        refit_every: int = 200,
        occupancy: MachineTimeAccounting | None = None,
    ) -> None:
        self.table = OutcomeTable(index.dim)
        self.index = index
        self.position = ""
        self.learned = 0
        self._log = log
        self._policies = dict(policies)
        self._build = build
        self._refit = refit
        self._meanwhile: dict[str, list[Outcome]] = {}  # outcomes since a policy's refit began, by its name
        self._arms = arms
        self._folder = folder
        self._refit_every = refit_every
        self._occupancy = occupancy
        self._next_refit = refit_every
        self._open: OrderedDict[str, _Open] = OrderedDict()
        self._looked_at: asyncio.Future[None] | None = None  # done when entries may be taken in again
        self._writer = threading.Lock()  # a save that nobody waits for any more may still be at work

    def policy(self, name: str) -> StoredPolicy:
        """A policy by name. One that nobody asked for before begins with its priors and is refitted aside as soon as
        the log grows: that may take it half a minute, and all other requests would wait.

        Raises: ValueError naming the policies there are.
        """
        policy = self._policies.get(name)
        if policy is None:
            policy = self._policies[name] = self._build(name)
            if len(self.table):
                self._next_refit = 0
        return policy

    async def run(self) -> None:
        """Follow the log until cancelled, refitting beside it whenever enough was learned."""
        refitting: asyncio.Future[None] | None = None
        taken = 0
        try:
            async for position, entry in self._log.tail(self.position):
                if self._looked_at is not None:
                    await self._still()
                self.take(entry)
                self.position, taken = position, taken + 1
                if taken % AT_ONCE == 0:
                    await asyncio.sleep(0)
                if self.learned >= self._next_refit and (refitting is None or refitting.done()):
                    refitting = asyncio.ensure_future(self.refit())
        finally:
            if refitting is not None:
                refitting.cancel()

    async def catch_up(self) -> None:
        """Take in everything already in the log."""
        async for position, entry in self._log.tail(self.position, follow=False):
            self.take(entry)
            self.position = position

    async def refit(self) -> None:
        """Refit every policy on the whole table, off the event loop. One that cannot be refitted keeps its state.

        What comes in meanwhile is learned twice: by the old state at once, and by the new one when it takes over; so
        the result depends on the log alone and not on how long a refit takes.
        """
        self._next_refit = self.learned + max(self._refit_every, self.learned // 4)
        arms = self._arms()
        history = await self._apart(lambda: self.table.history(arms))
        states = {name: _copied(policy) for name, policy in self._policies.items()}
        self._meanwhile = {name: [] for name in states}  # of all: what they know now is older than their turn
        try:
            for name, state in states.items():
                await self._refit_one(name, state, history)
        finally:
            self._meanwhile = {}

    async def _refit_one(self, name: str, state: dict[str, NDArray[Any]], history: History) -> None:
        policy = self._policies[name]
        try:
            fitted = await self._refit(name, state, history)
            await self._still()
            policy.restore(fitted)
            for outcome in self._meanwhile.pop(name):
                policy.learn(outcome)
        except Exception:
            LOG.exception("policy %s could not be refitted on %d rows and keeps its state", name, len(self.table))

    def take(self, entry: LogEntry) -> None:
        """Take in one entry of the log."""
        if self._occupancy is not None:
            self._occupancy.take(entry)
        if isinstance(entry, DecisionRecord):
            self._open[entry.decision_id] = _Open(entry)
            if len(self._open) > OPEN_DECISIONS:
                self._open.popitem(last=False)
        elif isinstance(entry, SettlementRecord):
            self._settled(entry)
        else:
            self._judged(entry)

    def _settled(self, entry: SettlementRecord) -> None:
        known = self._open.get(entry.decision_id)
        if known is None or entry.outcome != "settled":
            return
        known.cost, known.completion_tokens = entry.cost / NANO_PER_USD, entry.completion_tokens
        known.signature = entry.signature
        record = known.record
        embedding = Float16Embedding(record.embedding)
        self._teach(known, record, embedding, score=NAN, cost=known.cost, at_ms=entry.at_ms, weight=1.0)
        known.pack()

    def _judged(self, entry: Feedback) -> None:
        known = self._open.get(entry.decision_id)
        if known is None:
            return
        if entry.source != "user" and known.judged_by_user:
            return  # a person has the last word
        known.judged_by_user |= entry.source == "user"
        self.learned += 1
        record = known.record
        embedding = Float16Embedding(record.embedding)
        if known.row < 0:
            known.row = self.table.append(record, embedding.vector)
            self.index.add(embedding.vector[None, :], np.array([known.row]))
        self.table.observe(known.row, record.model, score=entry.score, cost=known.cost)
        weight = entry.reliability
        self._teach(known, record, embedding, score=entry.score, cost=NAN, at_ms=entry.at_ms, weight=weight)

    def _teach(
        self,
        known: _Open,
        record: DecisionRecord,
        embedding: Float16Embedding,
        *,
        score: float,
        cost: float,
        at_ms: int,
        weight: float,
    ) -> None:
        """`record` and `embedding` are those of `known`, which keeps them packed."""
        outcome = Outcome(
            request_id=record.decision_id,
            tenant=record.tenant,
            arm=record.model,
            embedding=embedding,
            score=score,
            cost=cost,
            propensity=record.propensity,
            prompt_tokens=record.prompt_tokens,
            completion_tokens=known.completion_tokens,
            prompt_characters=record.prompt_characters,
            now=at_ms / 1000,
            weight=weight,
            features=np.frombuffer(record.features, "<f4") if record.features else None,
            purse=record.purse,
            signature=np.frombuffer(known.signature, "<f4").astype(np.float64) if known.signature else None,
            candidates=record.candidates,
            expected=Estimates(
                np.array(record.quality), np.array(record.sigma), np.array(record.charged or record.cost)
            ),
        )
        for policy in self._policies.values():
            policy.learn(outcome)
        for outcomes in self._meanwhile.values():
            outcomes.append(outcome)

    async def snapshot(self) -> None:
        """save() in a thread, all of one moment. Raises: OSError."""
        await self._apart(self.save)

    async def _apart(self, work: Callable[[], T]) -> T:
        """What `work` makes of the views in a thread. What comes in meanwhile waits."""
        await self._still()
        self._looked_at = looked_at = asyncio.get_running_loop().create_future()
        try:
            return await asyncio.to_thread(work)
        finally:
            self._looked_at = None
            looked_at.set_result(None)

    async def _still(self) -> None:
        """Wait while a thread looks at the views."""
        while self._looked_at is not None:
            await asyncio.shield(self._looked_at)

    def save(self) -> None:
        """Write a snapshot beside the old one, then replace it. Raises: OSError."""
        if self._folder is not None:
            with self._writer:
                self._write(self._folder)

    def _write(self, folder: Path) -> None:
        fresh = folder.with_suffix(".new")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        self.index.save(fresh)
        self.table.save(fresh)
        for name, policy in list(self._policies.items()):
            state: dict[str, NDArray[Any]] = dict(policy.state())
            np.savez(fresh / f"policy-{name}.npz", allow_pickle=False, **state)
        if self._occupancy is not None:
            occupied: dict[str, NDArray[Any]] = dict(self._occupancy.state())
            np.savez(fresh / "occupancy.npz", allow_pickle=False, **occupied)
        (fresh / "position.json").write_text(json.dumps({"position": self.position, "learned": self.learned}))
        with (fresh / "open.msgpack").open("wb") as file:
            for page in _pages(self._open):
                file.write(len(page).to_bytes(4, "little") + page)
        shutil.rmtree(folder, ignore_errors=True)
        fresh.rename(folder)

    def load(self) -> bool:
        """Read the snapshot, if there is one; False where there is none or it does not fit."""
        if self._folder is None or not (self._folder / "position.json").exists():
            return False
        try:
            table = OutcomeTable(self.index.dim)
            table.load(self._folder)
            self.index.load(self._folder)
            at = json.loads((self._folder / "position.json").read_text())
            opened = _read_pages(self._folder / "open.msgpack")
        except (OSError, ValueError, KeyError) as error:
            LOG.warning("the snapshot in %s is not usable (%s); the log is replayed", self._folder, error)
            return False
        self.table, self.position, self.learned, self._open = table, at["position"], at["learned"], opened
        for name, policy in list(self._policies.items()):
            self._restore(policy, self._folder / f"policy-{name}.npz")
        if self._occupancy is not None:
            self._restore(self._occupancy, self._folder / "occupancy.npz")
        return True

    def _restore(self, policy: Snapshot, stored: Path) -> None:
        """A state that an older version wrote and this one cannot read costs a refit, not the index."""
        if not stored.exists():
            return
        try:
            with np.load(stored) as state:
                policy.restore({key: state[key] for key in state.files})
        except (OSError, ValueError, KeyError) as error:
            LOG.warning("%s does not fit this version (%s); the policy is refitted on the table", stored, error)
            self._next_refit = 0


def _copied(policy: Snapshot) -> dict[str, NDArray[Any]]:
    """A policy's state, which goes on changing."""
    return {key: np.array(value) for key, value in policy.state().items()}


def _pages(opened: Mapping[str, _Open]) -> Iterator[bytes]:
    """Open decisions, oldest first, some at a time: encoding them holds up every other thread."""
    names = list(opened)
    for start in range(0, len(names), A_PAGE):
        yield _encode({name: opened[name].stored() for name in names[start : start + A_PAGE]})


def _read_pages(path: Path) -> OrderedDict[str, _Open]:
    """Inverse of _pages, with each page's length before it; nothing where there is no file, as earlier versions wrote
    none. Raises: OSError, msgspec.DecodeError."""
    opened: OrderedDict[str, _Open] = OrderedDict()
    if not path.exists():
        return opened
    with path.open("rb") as file:
        while length := file.read(4):
            page = _decode_stored(file.read(int.from_bytes(length, "little")))
            opened.update((name, _Open(*stored)) for name, stored in page.items())
    return opened
