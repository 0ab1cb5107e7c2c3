"""Which of the project's rooms a warm request enters, and how often: each call of a function of ours, on any thread."""

from __future__ import annotations

import collections
import contextvars
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from benchmarks.in_process import ENGINE, messages, stubbed
from benchmarks.settings import pass_settings

PAGE = "docs/architecture.md"
BEGIN, END = "<!-- made by python -m tests.house.tracing -->", "<!-- end -->"
TRACED = 10
WRITER = "ledger-writer"  # the thread
ROOT = Path(__file__).parents[2]
OURS = ("router", "backends", "policies")
_NO_CALLS = ("<listcomp>", "<dictcomp>", "<setcomp>", "<genexpr>", "<module>")  # frames in one Python, none in the next


@dataclass(frozen=True)
class Walk:
    """The calls of one request, by file."""

    calls: Mapping[str, int]

    @property
    def total(self) -> int:
        return sum(self.calls.values())

    @property
    def rooms(self) -> dict[str, list[str]]:
        """The files of each folder, in the order of their names."""
        found: dict[str, list[str]] = {}
        for file in sorted(self.calls):
            room, _, name = file.rpartition("/")
            found.setdefault(room, []).append(name)
        return found

    def lines(self) -> list[str]:
        """The rooms with their files, as docs/architecture.md shows them."""
        return [f"    {f'{room}/':<22}{', '.join(names)}" for room, names in self.rooms.items()]


_INSIDE = contextvars.ContextVar("inside", default=False)


class Marked(list[bytes]):
    """Requests: whoever takes one is inside from then on, and so are the tasks and callbacks that follow from it."""

    def __iter__(self) -> Iterator[bytes]:
        for request in super().__iter__():
            _INSIDE.set(True)
            yield request


class Recorder:
    """Counts functions of ours that a request enters; a coroutine that goes on is the same call.

    What runs beside it, following the log or sweeping, began before it and is not inside, however busy the machine is.
    The thread that writes the ledger counts: it is idle without a request.
    """

    def __init__(self) -> None:
        self.calls: collections.Counter[str] = collections.Counter()
        self._seen: set[FrameType] = set()

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event != "call" or frame in self._seen or code.co_name in _NO_CALLS:
            return
        if not _INSIDE.get() and threading.current_thread().name != WRITER:
            return
        if code.co_filename.startswith(str(ROOT)):
            file = code.co_filename.removeprefix(f"{ROOT}/")
            if file.startswith(OURS):
                self._seen.add(frame)
                self.calls[file] += 1


def traced(folder: Path, settings: Mapping[str, Any] | None = None, *, warm: int = 20) -> Walk:
    """The shortest path of some requests after others that were alike: what runs beside a request is no part of it."""
    with stubbed(folder, settings or pass_settings(ENGINE, folder, 0)) as run:
        for _ in range(warm):
            run(messages(1))
        walks = [Walk(dict(_recorded(run).most_common())) for _ in range(TRACED)]
    return min(walks, key=lambda walk: walk.total)


def _recorded(run: Callable[[Sequence[bytes]], float]) -> collections.Counter[str]:
    recorder = Recorder()
    threading.setprofile(recorder)
    sys.setprofile(recorder)
    try:
        run(Marked(messages(1)))
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return recorder.calls


def shown(page: str) -> set[str]:
    """The rooms that a page names in its block."""
    block = page.partition(BEGIN)[2].partition(END)[0]
    return {line.split()[0].rstrip("/") for line in block.splitlines() if line.startswith("    ")}


def rewritten(page: str, walk: Walk) -> str:
    """The page with its block made anew."""
    before, _, rest = page.partition(BEGIN)
    lines = "\n".join(walk.lines())
    return f"{before}{BEGIN}\n\n{lines}\n\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        WALK = traced(Path(made))
    (ROOT / PAGE).write_text(rewritten((ROOT / PAGE).read_text(), WALK))
    print(f"{len(WALK.calls)} files, {WALK.total} calls", *WALK.lines(), sep="\n")
