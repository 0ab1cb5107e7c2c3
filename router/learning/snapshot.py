"""A cached view with its log position; one that is missing or unreadable costs a replay of the log and nothing else."""

from __future__ import annotations

import logging
import shutil
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from policies.types import Snapshot
from router.learning.table import OutcomeTable
from router.learning.views import OpenDecision, Views, opened_of, pages

LOG = logging.getLogger("pointsman.learning")


class Position(msgspec.Struct, frozen=True):
    """How far the views of a snapshot had come."""

    position: str = ""  # of the log
    learned: int = 0  # judgements
    fitted: Mapping[str, int] = msgspec.field(default_factory=dict)  # judgements each policy was last refitted on


@dataclass(frozen=True, slots=True)
class Restored:
    """What a snapshot gave back."""

    at: Position
    unfit: tuple[str, ...]  # policies whose stored state could not be read


def save(views: Views, at: Position, folder: Path) -> None:
    """Write a snapshot beside the old one, then replace it. Raises: OSError."""
    fresh = folder.with_suffix(".new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    views.index.save(fresh)
    views.table.save(fresh)
    for name, policy in list(views.policies.items()):
        _save_state(policy, fresh / f"policy-{name}.npz")
    if views.occupancy is not None:
        _save_state(views.occupancy, fresh / "occupancy.npz")
    (fresh / "position.json").write_bytes(msgspec.json.encode(at))
    with (fresh / "open.msgpack").open("wb") as file:
        for page in pages(views.open):
            file.write(len(page).to_bytes(4, "little") + page)
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)


def load(views: Views, folder: Path) -> Restored | None:
    """Read a snapshot into the views; None, and nothing changed, where there is none or it does not fit."""
    if not (folder / "position.json").exists():
        return None
    try:
        at = msgspec.json.decode((folder / "position.json").read_bytes(), type=Position)
        opened = _read_pages(folder / "open.msgpack")
        table = OutcomeTable(views.index.dim)
        table.load(folder)
        views.index.load(folder, rows=len(table))
    except (OSError, ValueError, KeyError) as error:
        LOG.warning("the snapshot in %s is not usable (%s); the log is replayed", folder, error)
        return None
    views.table, views.learned, views.open = table, at.learned, opened
    unfit = [name for name, policy in views.policies.items() if not restore(policy, folder / f"policy-{name}.npz")]
    if views.occupancy is not None:
        restore(views.occupancy, folder / "occupancy.npz")
    return Restored(at, tuple(unfit))


def restore(holder: Snapshot, stored: Path) -> bool:
    """Whether a stored state was taken in or there is none. One that does not fit costs a refit, not the index."""
    if not stored.exists():
        return True
    try:
        with np.load(stored) as state:
            holder.restore({key: state[key] for key in state.files})
    except (OSError, ValueError, KeyError) as error:
        LOG.warning("%s does not fit this version (%s); the policy is refitted on the table", stored, error)
        return False
    return True


def _save_state(holder: Snapshot, path: Path) -> None:
    state: dict[str, NDArray[Any]] = dict(holder.state())
    np.savez(path, allow_pickle=False, **state)


def _read_pages(path: Path) -> OrderedDict[str, OpenDecision]:
    """Open decisions, with each page's length before it; none without a file. Raises: OSError, ValueError."""
    opened: OrderedDict[str, OpenDecision] = OrderedDict()
    if not path.exists():
        return opened
    with path.open("rb") as file:
        while length := file.read(4):
            opened.update(opened_of(file.read(int.from_bytes(length, "little"))))
    return opened
