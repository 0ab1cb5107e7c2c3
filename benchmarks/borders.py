"""What the checks of what is foreign cost a request: python -m benchmarks.borders

One gateway with everything on, in process. Its batches alternate: as it is, and with each check replaced by the least
that a gateway would do in its place. That believes the engine's usage, the client's framing and the machine's clock.
Printed: the least CPU of the batches of each kind, all threads counted. Fails where an answer is no 200.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import patch

import yaml
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

import backends.http1
import backends.whole
import router.gateway.answers
import router.http.inference
import router.http.schemas
from backends.types import Report, Usage
from benchmarks.in_process import CONNECTIONS, ENGINE, Caller, Loop, cpu_us, messages, opened_at
from benchmarks.seeding import seed_snapshot
from benchmarks.settings import full_settings
from research.provenance import provenance
from router.gateway.cost_fields import NOTHING
from router.gateway.metering import Bill
from router.gateway.types import Attempt
from router.http.connections import Connection
from router.http.intake import Intake
from router.stores.sqlite.timekeeping import Timekeeper
from router.types import Spend


def _believed(said: Any) -> Usage:
    return Usage(said["prompt_tokens"], said["completion_tokens"])


def _bill(attempt: Attempt, report: Report) -> Bill:
    usage = cast(Usage, report.usage)
    prompt, completion = cast(int, usage.prompt_tokens), cast(int, usage.completion_tokens)
    return Bill(Spend(attempt.model.price.of(prompt, completion), prompt, completion, "settled"))


def _fed(connection: Any, _: object, data: bytes) -> None:
    connection._parser.feed_data(data)


def _taken(intake: Any, *asgi: Any) -> Any:
    return intake._app(*asgi)


def _now_ms(keeper: Any) -> int:
    found: int = keeper._clock()
    return found


ALL, NONE, AGAIN = "with all checks", "without any of them", "with all, once more"
WARM = 20  # batches before those that count
CHECKS = {
    "heads and bodies have any length and take any time": (
        Intake,
        "__call__",
        _taken,
    ),  # beside plain connections
    "usage is what the engine says": (backends.whole, "usage_of", lambda said, _tier=None: _believed(said)),
    "an answer is text": (backends.whole, "mended", lambda text: text),
    "the bill is price times tokens": (router.gateway.answers, "billed", _bill),
    "no field raises the worst case": (router.http.schemas, "raised", lambda _path, _fields: NOTHING),
    "an engine's head has any length": (vars(backends.http1)["_Connection"], "_feed", _fed),
    "a header's value holds no line": (router.http.inference, "_UNSAFE", SimpleNamespace(search=lambda _: None)),
    "the clock is right": (Timekeeper, "now_ms", _now_ms),
    "the clock has not jumped": (Timekeeper, "jump_ms", lambda _: 0),
}


@contextmanager
def unchecked() -> Iterator[None]:
    """Believe everything for as long as the context is open."""
    with ExitStack() as stack:
        for check in CHECKS.values():
            stack.enter_context(patch.object(*check))
        yield


def plainly(made: Connection) -> HttpToolsProtocol:
    """uvicorn's own connection of the same server: heads of any length, for as long as they take."""
    config, server_state, app_state = made._made
    return HttpToolsProtocol(config, server_state, app_state)


async def measured(folder: Path, batches: int) -> dict[str, float]:
    """CPU microseconds a request: with all checks, without any, and with all once more, which shows the noise."""
    opened = opened_at(folder / "pointsman.yaml")
    clients = await opened.__aenter__()
    factory = cast(Loop, asyncio.get_running_loop()).factories[-1]
    plain = [Caller(lambda: plainly(cast(Connection, factory()))) for _ in range(CONNECTIONS)]
    asked, taken = messages(100), {name: [0.0] for name in (ALL, NONE, AGAIN)}
    for number in range(batches):
        for name in list(taken)[:: 1 if number % 2 else -1]:
            with unchecked() if name == NONE else nullcontext():
                taken[name].append(await cpu_us(plain if name == NONE else clients, asked))
    await opened.__aexit__(None, None, None)
    return {name: min(each[WARM:]) for name, each in taken.items()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, default=300)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as made, asyncio.Runner(loop_factory=Loop) as runner:
        folder = Path(made)
        settings = full_settings(ENGINE, folder, 0)
        seed_snapshot(settings, vectors=10_000)
        (folder / "pointsman.yaml").write_text(yaml.safe_dump(settings))
        found = runner.run(measured(folder, asked.batches))
    print("| | µs a request | ratio |\n|---|---|---|")
    for name, least in found.items():
        print(f"| {name} | {least:.1f} | {least / found[NONE]:.3f} |")
    print(f"\n{provenance()}")


if __name__ == "__main__":
    main()
