"""What prices of cached tokens, conversations, stored answers and seconds cost a request: CPU in process, off and on.

    python -m benchmarks.priced [--batches 30]

Both gateways do everything else too, and get the same requests, each of them new. The least of many batches counts. A
figure of a machine that others use is worth nothing.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.in_process import ENGINE, least, messages, stubbed
from benchmarks.settings import full_settings

BATCH = 100


def priced_settings(mock: str, folder: Path, port: int) -> dict[str, Any]:
    """All of full_settings; prices of what is cached, stored answers for similar questions, and a price of a second."""
    found: dict[str, Any] = full_settings(mock, folder, port)
    tenants = {
        name: {**terms, "cache": {"alpha": 0.05}, "latency_usd_per_s": 1e-4} for name, terms in found["tenants"].items()
    }
    models = [{**each, "price": {**each["price"], "cached": each["price"]["prompt"] / 10}} for each in found["models"]]
    return {**found, "tenants": tenants, "models": models}


def measure(folder: Path, *, batches: int) -> dict[str, float]:
    """CPU microseconds a request, by what is on."""
    figures = {}
    for name, settings_of in (("off", full_settings), ("on", priced_settings)):
        new = messages(BATCH * batches, seed=11)
        with stubbed(folder / name, settings_of(ENGINE, folder / name, 0)) as run:
            figures[name] = least(run, [new[start : start + BATCH] for start in range(0, len(new), BATCH)])
    return figures


def main() -> None:
    """Print both figures and what the second has more."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, default=30)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), batches=parser.parse_args().batches)
    print(f"off {found['off']:.1f} us, on {found['on']:.1f} us: {100 * (found['on'] / found['off'] - 1):+.1f} % of CPU")


if __name__ == "__main__":
    main()
