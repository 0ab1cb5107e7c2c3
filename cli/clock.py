"""The verb about the machine's clock: whether money believes it, and confirming that it is right."""

from __future__ import annotations

import argparse
import asyncio
import time
from typing import Any

from cli.config import add_config
from router.types import now_ms

Verbs = Any  # argparse gives its subparsers no public type


def add_verbs(verbs: Verbs) -> None:
    """Add clock."""
    top = verbs.add_parser("clock", help="confirm the machine's clock after it has jumped")
    acts = top.add_subparsers(metavar="ACTION", required=True)
    confirm = acts.add_parser("confirm", help="believe the clock as it is now")
    add_config(confirm)
    confirm.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from router.settings import load  # noqa: PLC0415
    from router.settings.paths import store_url  # noqa: PLC0415  (each verb imports what it needs)
    from router.stores.open import open_stores  # noqa: PLC0415
    from router.stores.sqlite.timekeeping import boot_ms  # noqa: PLC0415

    async def work() -> None:
        async with open_stores(store_url(load(arguments.config)), clock=now_ms, boot=boot_ms) as stores:
            if stores.clock is None:
                print("the clock of Redis orders the money; there is nothing to confirm")
                return
            await stores.clock.confirm_clock("pointsman clock confirm")
            print(f"confirmed: it is {time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime())} UTC")

    asyncio.run(work())
    return 0
