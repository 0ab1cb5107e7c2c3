"""Which of the project's rooms a warm request enters, and how often: each call of a function of ours, on any thread."""

from __future__ import annotations

import collections
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from benchmarks.in_process import ENGINE, messages, stubbed
from benchmarks.settings import pass_settings

PAGE = "docs/architecture.md"
BEGIN, END = "<!-- made by python -m tests.house.tracing -->", "<!-- end -->"
TRACED = 10
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


class Recorder:
    """Counts functions of ours that are entered; a coroutine that goes on is the same call."""

    def __init__(self) -> None:
        self.calls: collections.Counter[str] = collections.Counter()
        self._seen: set[FrameType] = set()

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event != "call" or frame in self._seen or code.co_name in _NO_CALLS:
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
        run(messages(1))
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
