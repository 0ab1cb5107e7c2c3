"""`pointsman`: serve, demo, route, programs, replay, tune, onboard, admit, quantize, compensate, engine, keys,
import, tenants, budgets, spend, clock, check, init, doctor, completion.

Each verb imports what it needs when it runs, so that `pointsman --help` is instant. A mistake of the user's ends with
one line on stderr and exit code 2; a traceback is a bug.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import version

from cli import accounts, clock, completion, doctor, importing, init, keys, models, policies, serving
from router.errors import PointsmanError

ROOMS = (init, serving, doctor, policies, models, keys, accounts, importing, clock, completion)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code."""
    parsed = parser().parse_args(arguments)
    try:
        code: int = parsed.run(parsed)
    except PointsmanError as error:
        print(f"pointsman: {error.message}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return code


def parser() -> argparse.ArgumentParser:
    """Every verb with its options."""
    top = argparse.ArgumentParser(prog="pointsman", description="Decides which language model answers each request.")
    top.add_argument("--version", action="version", version=f"pointsman {version('pointsman')}")
    verbs = top.add_subparsers(metavar="VERB", required=True)
    for room in ROOMS:
        room.add_verbs(verbs)
    return top
