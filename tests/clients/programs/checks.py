"""What every client program prints: one JSON line a check. Nothing is installed for it.

`family` are the packaged models, which have no room for a schema or a tool and words of their own: a check that ends in
one of these says nothing, and is neither passed nor failed.
"""

import contextlib
import json
import os
import sys

failed = []


@contextlib.contextmanager
def check(name):
    said = {"check": name, "ok": True}
    try:
        yield
    except Exception as problem:
        why = untold(problem)
        said = {"check": name, "ok": None if why else False, "why": why or f"{type(problem).__name__}: {problem}"[:400]}
        failed.extend([] if why else [name])
    print(json.dumps(said), flush=True)


def untold(problem):
    if os.environ.get("MODEL") != "family":
        return None
    if "the request is too long" in str(problem):
        return "too long for it"
    if "is not supported" in str(problem):
        return "it cannot"
    return "it says something else" if isinstance(problem, AssertionError) else None


def done():
    sys.exit(1 if failed else 0)
