"""`pointsman`: serve, demo, route, programs, replay, tune, onboard, admit, quantize, compensate, engine, keys,
import, tenants, budgets, spend, clock, check, init, doctor, completion.

Each verb imports what it needs when it runs, so that `pointsman --help` is instant. A mistake of the user's ends with
one line on stderr and exit code 2; a traceback is a bug.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version

from cli import accounts, clock, completion, doctor, importing, init, keys, models, policies, serving
from router.errors import PointsmanError

CLOSED = 141  # as of a program that SIGPIPE ends
ROOMS = (init, serving, doctor, policies, models, keys, accounts, importing, clock, completion)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code."""
    parsed = parser().parse_args(arguments)
    try:
        code: int = parsed.run(parsed)
        sys.stdout.flush()
    except PointsmanError as error:
        print(f"pointsman: {error.message}", file=sys.stderr)
        return 2
    except OSError as error:
        return _unwritten(error)
    except KeyboardInterrupt:
        return 130
    return code


def _unwritten(error: OSError) -> int:
    """The exit code where something could not be written; where a pipe was closed, its reader has enough."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left in the buffer goes nowhere
    if isinstance(error, BrokenPipeError):
        return CLOSED
    print(f"pointsman: {error}", file=sys.stderr)
    return 2


def parser() -> argparse.ArgumentParser:
    """Every verb with its options."""
    top = argparse.ArgumentParser(prog="pointsman", description="Decides which language model answers each request.")
    top.add_argument("--version", action="version", version=f"pointsman {version('pointsman')}")
    verbs = top.add_subparsers(metavar="VERB", required=True)
    for room in ROOMS:
        room.add_verbs(verbs)
    return top
