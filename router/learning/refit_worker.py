"""Refits that take seconds run in a process of their own, so that no request waits for the interpreter's lock.

The process reads a job from a folder and writes the refitted state beside it; where it fails, the policy keeps its
state.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from policies import registry as named
from policies.types import Arm, History
from router.learning.arrays import load_arrays, save_arrays

State = dict[str, NDArray[Any]]
NICENESS = 10


async def refit_elsewhere(name: str, options: Mapping[str, object], *, state: State, history: History) -> State:
    """The state of a named policy after refit(history). Raises: RuntimeError with what the process said."""
    with tempfile.TemporaryDirectory(prefix="pointsman-refit-") as folder:
        await asyncio.to_thread(_write, Path(folder), name, options, state, history)
        await run_elsewhere("router.learning.refit_worker", folder, what=f"the refit of {name}")
        return await asyncio.to_thread(load_arrays, Path(folder) / "refitted.npz")


async def run_elsewhere(module: str, *arguments: str, what: str) -> None:
    """Run a module of ours in a process of its own. Raises: RuntimeError with what the process said."""
    command = [sys.executable, "-m", module, *arguments]
    starting = asyncio.ensure_future(
        asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE)
    )
    try:
        process = await asyncio.shield(starting)
    except asyncio.CancelledError:
        process = await starting  # who is cancelled just then would leave it running
        process.kill()
        await process.wait()
        raise
    try:
        _, said = await process.communicate()
    except BaseException:
        process.kill()
        await process.wait()
        raise
    if process.returncode:
        raise RuntimeError(f"{what} ended with {process.returncode}: {said.decode()[-2000:]}")


async def refit_aside(name: str, options: Mapping[str, object], *, state: State, history: History) -> State:
    """The same in a thread of this process, for policies whose refit takes milliseconds."""

    return await asyncio.to_thread(_refitted, name, options, state, history)


def _refitted(name: str, options: Mapping[str, object], state: State, history: History) -> State:
    """On one thread of BLAS: the event loop needs the other core, and sums come out the same wherever this runs."""
    policy = named.build(name, history.arms, options)
    policy.restore(state)
    with threadpool_limits(1):
        policy.refit(history)
    return dict(policy.state())


def _write(folder: Path, name: str, options: Mapping[str, object], state: State, history: History) -> None:
    arms = [msgspec.structs.asdict(arm) for arm in history.arms]
    (folder / "job.json").write_text(json.dumps({"name": name, "options": dict(options), "arms": arms}))
    save_arrays(folder / "state.npz", state)
    arrays: State = {
        "embeddings": history.embeddings,
        "scores": history.scores,
        "costs": history.costs,
        "prompt_tokens": history.prompt_tokens,
        "prompt_characters": history.prompt_characters,
    }
    for optional in ("features", "weights"):
        if (values := getattr(history, optional)) is not None:
            arrays[optional] = values
    save_arrays(folder / "history.npz", arrays)


def main(arguments: Sequence[str]) -> None:
    """Refit the job in a folder."""
    os.nice(NICENESS)
    folder = Path(arguments[0])
    job = json.loads((folder / "job.json").read_text())
    arms = tuple(Arm(**arm) for arm in job["arms"])
    history = History(arms=arms, **load_arrays(folder / "history.npz"))
    state = _refitted(job["name"], job["options"], load_arrays(folder / "state.npz"), history)
    save_arrays(folder / "refitted.npz", state)


if __name__ == "__main__":
    main(sys.argv[1:])
