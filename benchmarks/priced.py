"""What prices of cached tokens, conversations, stored answers and seconds cost a request: CPU in process, off and on.

    python -m benchmarks.priced [--batches 30]

All gateways do everything else too, and get the same requests in turn, each of them new: the third turns of
conversations. `unknown` is `off` without the code that knows a conversation, which cannot be switched off otherwise.
The least of many batches counts. A figure of a machine that others use is worth nothing.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.in_process import ENGINE, bodies_of, stubbed
from benchmarks.rig import prompts
from benchmarks.settings import full_settings
from router.gateway import deciding

BATCH = 100
Run = Callable[[Sequence[bytes]], float]


def with_prices(settings: dict[str, Any]) -> dict[str, Any]:
    """Prices of what is cached: who has which conversation decides."""
    models = [
        {**each, "price": {**each["price"], "cached": each["price"]["prompt"] / 10}} for each in settings["models"]
    ]
    return {**settings, "models": models}


def with_terms(settings: dict[str, Any], **terms: Any) -> dict[str, Any]:
    """The same terms for each tenant."""
    return {**settings, "tenants": {name: {**each, **terms} for name, each in settings["tenants"].items()}}


SECONDS: Mapping[str, Any] = {"latency_usd_per_s": 1e-4}
SIMILAR: Mapping[str, Any] = {"cache": {"alpha": 0.05}}
ON: Mapping[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "conversations": with_prices,
    "seconds": partial(with_terms, **SECONDS),
    "stored": partial(with_terms, cache=True),
    "similar": partial(with_terms, **SIMILAR),
}


def priced_settings(engine: str, folder: Path, port: int) -> dict[str, Any]:
    """All of full_settings; prices of what is cached, stored answers for similar questions, and a price of a second."""
    return with_terms(with_prices(dict(full_settings(engine, folder, port))), **SECONDS, **SIMILAR)


def variants(folder: Path) -> dict[str, dict[str, Any]]:
    """Settings by what is on."""
    found = {name: dict(full_settings(ENGINE, folder / name, 0)) for name in ("unknown", "off")}
    for name, change in ON.items():
        found[name] = change(dict(full_settings(ENGINE, folder / name, 0)))
    return found | {"all": priced_settings(ENGINE, folder / "all", 0)}


def turns(count: int) -> list[bytes]:
    """That many third turns, each of another conversation."""
    bodies = []
    for body in prompts(count, seed=11):
        said: Any = body["messages"]
        before = [{"role": "user", "content": f"{said[0]['content']} First?"}, {"role": "assistant", "content": "Six."}]
        bodies.append(json.dumps({**body, "messages": [*before, *before, *said]}).encode())
    return bodies_of(bodies)


@contextmanager
def unknown(is_so: bool) -> Iterator[None]:
    """Without knowing any conversation."""
    with ExitStack() as stack:
        if is_so:
            stack.enter_context(mock.patch.object(deciding, "session_of", return_value=None))
            stack.enter_context(mock.patch.object(deciding, "tied", lambda candidates, *_: candidates))
        yield


def measure(folder: Path, *, batches: int) -> dict[str, float]:
    """CPU microseconds a request, by what is on: each the least of its batches but the first."""
    new = turns(BATCH * batches)
    figures: dict[str, float] = {}
    with ExitStack() as stack:
        runs: dict[str, Run] = {
            name: stack.enter_context(stubbed(folder / name, settings)) for name, settings in variants(folder).items()
        }
        for start in range(0, len(new), BATCH):
            order = deque(runs)
            order.rotate(start // BATCH)  # or whoever comes first would be the coldest each time
            for name in order:
                with unknown(name == "unknown"):
                    found = runs[name](new[start : start + BATCH])
                if start:
                    figures[name] = min(figures.get(name, found), found)
    return figures


def main() -> None:
    """Print all figures and what each has more than nothing of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, default=30)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), batches=parser.parse_args().batches)
    for name, us in found.items():
        print(f"{name:>14} {us:7.1f} us {100 * (us / found['off'] - 1):+6.1f} %")


if __name__ == "__main__":
    main()
