"""A cached view with its log position; one that is missing or unreadable costs a replay of the log and nothing else.

All processes of a machine share it: one writes at a time, and whoever starts reads what was written last. Each file is
known by its sum, so that nothing damaged reaches the index or a policy.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import math
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from policies.records import LogEntry
from policies.types import Snapshot
from router.learning.arrays import load_arrays, save_arrays
from router.learning.shares import Shares
from router.learning.table import OutcomeTable
from router.learning.views import OPEN_DECISIONS, OpenDecision, Views, pages, take_page
from router.ports import OutcomeLog

LOG = logging.getLogger("pointsman.learning")
POSITION, OPEN, MACHINE_TIME = "position.json", "open.msgpack", "machine_time.npz"
TRUST, SOURCES, HEADS, CACHES, TIMES = "trust.npz", "sources.npz", "heads.npz", "caches.npz", "times.npz"
COUNTS = "counts.npz"
ANSWERS, SIMILAR, HOLDERS = "answers.npz", "similar.npz", "holders.npz"
TRIES = 3  # to read what another process may be writing anew


class Position(msgspec.Struct, frozen=True):
    """How far the views of a snapshot had come."""

    position: str = ""  # of the log
    before: str = ""  # the position before that
    entry: str = ""  # what stands at the position, as `known_by` says it
    learned: int = 0  # judgements
    fitted: Mapping[str, int] = msgspec.field(default_factory=dict)  # judgements each policy was last refitted on
    space: str = ""  # as in Views, and what follows
    texts: int = 0
    fitted_on: int = 0
    histories: Mapping[str, int] = msgspec.field(default_factory=dict)
    sums: Mapping[str, str] = msgspec.field(default_factory=dict)  # of the other files, by name


@dataclass(frozen=True, slots=True)
class Restored:
    """What a snapshot gave back."""

    at: Position
    unfit: tuple[str, ...]  # policies without a stored state that could be read


def save(views: Views, at: Position, folder: Path, *, unless_newer_s: float = 0.0) -> bool:
    """Write a snapshot beside the old one, then replace it. One process writes at a time: False where another does, or
    has done so in the last `unless_newer_s`. Raises: OSError."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _alone(folder) as alone:
        if not alone or _age_s(folder) < unless_newer_s:
            return False
        fresh = Path(tempfile.mkdtemp(prefix=f"{folder.name}.new-", dir=folder.parent))
        try:
            _write(views, at, fresh)
            _replace(folder, fresh)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    return True


def load(views: Views, folder: Path) -> Restored | None:
    """Read a snapshot into the views; None, and nothing changed, where there is none. One that cannot be read, whatever
    is wrong with it, is put aside under another name and said."""
    for _ in range(TRIES):
        found = _stamp(folder)
        if found is None:
            return None
        try:
            return _read(views, folder)
        except Exception as error:  # files may hold anything: no damage may stop a start
            if _stamp(folder) != found:
                continue  # another process has just written it anew
            aside = _put_aside(folder)
            said = "the snapshot %s cannot be read (%r): it is put aside as %s, and the log is replayed"
            LOG.warning(said, folder, error, aside)
            return None
    return None


def known_by(entry: LogEntry) -> str:
    """What tells an entry of the log from others that may take its place."""
    return f"{type(entry).__name__} {entry.decision_id} {entry.at_ms}"


async def lose_if_ahead(folder: Path, log: OutcomeLog) -> None:
    """Put a snapshot aside that has seen more than the log has: a power cut took the last entries, and others may stand
    in their places. Raises: StoreUnavailable."""
    try:
        at = msgspec.json.decode((folder / POSITION).read_bytes(), type=Position)
    except (OSError, msgspec.DecodeError):
        return  # whoever reads it will say so
    if not at.entry:
        return
    async for position, entry in log.tail(at.before, follow=False):
        if position == at.position and known_by(entry) == at.entry:
            return
        if position != at.position and not _is_before(position, at.position):
            return  # the log has been shortened since
        break
    said = "the snapshot %s has seen more than the log has: it is put aside as %s, and the log is replayed"
    LOG.warning(said, folder, _put_aside(folder))


def _is_before(position: str, other: str) -> bool:
    """Numbers, or a stream's ids of two numbers."""
    return [int(each) for each in position.split("-")] < [int(each) for each in other.split("-")]


def _write(views: Views, at: Position, folder: Path) -> None:
    views.index.save(folder)
    views.table.save(folder)
    for name, policy in list(views.policies.items()):
        _save_state(policy, folder / f"policy-{name}.npz")
    _save_state(views.trust, folder / TRUST)
    _save_state(views.sources, folder / SOURCES)
    _save_state(views.heads, folder / HEADS)
    _save_state(views.caches, folder / CACHES)
    _save_state(views.times, folder / TIMES)
    _save_state(views.counts, folder / COUNTS)
    _save_state(views.answers, folder / ANSWERS)
    _save_state(views.similar, folder / SIMILAR)
    _save_state(views.holders, folder / HOLDERS)
    if views.machine_time is not None:
        _save_state(views.machine_time, folder / MACHINE_TIME)
    with (folder / OPEN).open("wb") as file:
        for page in pages(views.open):
            file.write(len(page).to_bytes(4, "little") + page)
    sums = {each.name: _sum(each) for each in sorted(folder.iterdir())}
    (folder / POSITION).write_bytes(msgspec.json.encode(msgspec.structs.replace(at, sums=sums)))


def _read(views: Views, folder: Path) -> Restored:
    """Raises: anything, and then the views are as they were."""
    at = msgspec.json.decode((folder / POSITION).read_bytes(), type=Position)
    sound = {name for name, known in at.sums.items() if (folder / name).is_file() and _sum(folder / name) == known}
    damaged = {name for name in at.sums.keys() - sound if not name.startswith("policy-")}
    if damaged or not at.sums:
        raise ValueError(f"not as they were written: {', '.join(sorted(damaged)) or 'files without sums'}")
    opened = _read_pages(folder / OPEN)
    table = OutcomeTable(views.index.dim)
    table.load(folder)
    if not np.array_equal(np.load(folder / "ids.npy"), np.arange(len(table))):
        raise ValueError(f"the ids of the index are not the table's {len(table)} rows")
    views.index.load(folder, rows=len(table))
    if views.machine_time is not None and MACHINE_TIME in sound:
        restore(views.machine_time, folder / MACHINE_TIME)
    restore(views.trust, folder / TRUST)
    restore(views.sources, folder / SOURCES)
    restore(views.heads, folder / HEADS)
    restore(views.caches, folder / CACHES)
    restore(views.times, folder / TIMES)
    if COUNTS in sound:
        restore(views.counts, folder / COUNTS)
    if ANSWERS in sound:
        restore(views.answers, folder / ANSWERS)
    if SIMILAR in sound:
        restore(views.similar, folder / SIMILAR)
    if HOLDERS in sound:
        restore(views.holders, folder / HOLDERS)
    views.table, views.learned, views.open = table, at.learned, opened
    views.space, views.texts, views.fitted_on, views.histories = at.space, at.texts, at.fitted_on, dict(at.histories)
    return Restored(at, tuple(name for name in views.policies if not _restored(views, name, folder, sound)))


def _restored(views: Views, name: str, folder: Path, sound: Set[str]) -> bool:
    """Whether a policy has its stored state. One that does not fit, or is new, costs a refit, not the index."""
    file = f"policy-{name}.npz"
    return file in sound and restore(views.policies[name], folder / file)


def policies_in(folder: Path) -> list[str]:
    """Names of the policies whose state is stored there."""
    return sorted(path.stem.removeprefix("policy-") for path in folder.glob("policy-*.npz"))


def restore(holder: Snapshot, stored: Path) -> bool:
    """Whether a stored state was taken in."""
    try:
        holder.restore(load_arrays(stored))
    except Exception as error:  # of an older version, or of another embedder: whatever does not fit there
        LOG.warning("%s does not fit (%r); what it was of begins anew", stored, error)
        return False
    return True


def _save_state(holder: Snapshot, path: Path) -> None:
    save_arrays(path, holder.state())


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()


def _replace(folder: Path, fresh: Path) -> None:
    """Put a fresh folder in the place of another, or of whatever else is there."""
    old = Path(tempfile.mkdtemp(prefix=f"{folder.name}.old-", dir=folder.parent))
    if folder.exists() or folder.is_symlink():
        folder.rename(old / "old")
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _put_aside(folder: Path) -> Path | None:
    """The new name of a folder, in the place of what was put aside before; None where it has to stay."""
    aside = folder.with_name(f"{folder.name}.damaged")
    try:
        if aside.is_dir() and not aside.is_symlink():
            shutil.rmtree(aside)
        folder.rename(aside)
    except OSError as error:
        LOG.warning("%s cannot be put aside: %s", folder, error)
        return None
    return aside


def _stamp(folder: Path) -> tuple[int, int] | None:
    """What changes when a snapshot is written anew; None where there is nothing."""
    try:
        found = folder.lstat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _age_s(folder: Path) -> float:
    """Seconds since a snapshot was written; inf where there is none."""
    try:
        return time.time() - (folder / POSITION).stat().st_mtime
    except OSError:
        return math.inf


@contextmanager
def _alone(folder: Path) -> Iterator[bool]:
    """Whether no other process or thread writes this folder while the context is open."""
    with folder.with_name(f"{folder.name}.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def _read_pages(path: Path) -> Shares[OpenDecision]:
    """Open decisions, with each page's length before it. Raises: OSError, ValueError."""
    opened = Shares[OpenDecision](OPEN_DECISIONS)
    with path.open("rb") as file:
        while length := file.read(4):
            take_page(opened, file.read(int.from_bytes(length, "little")))
    return opened
