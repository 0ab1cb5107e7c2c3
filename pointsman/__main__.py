"""`python -m pointsman VERB`. Stops with one sentence where its own packages resolve to somebody else's."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("router", "backends", "policies", "evaluation", "cli")
HOME = Path(__file__).resolve().parent.parent


def strangers(home: Path = HOME) -> list[str]:
    """Packages of Pointsman that Python would import from elsewhere, with where."""
    found = {name: find_spec(name) for name in PACKAGES}
    origins = {name: Path(spec.origin).resolve() if spec and spec.origin else None for name, spec in found.items()}
    return [f"{name} from {origin}" for name, origin in origins.items() if origin is None or home not in origin.parents]


def main() -> int:
    """Run one verb; returns the exit code."""
    if elsewhere := strangers():
        print(f"pointsman: its packages lie in {HOME}, but Python finds {', '.join(elsewhere)}", file=sys.stderr)
        return 2
    try:
        from cli import main as run  # noqa: PLC0415  (only once the packages are known to be our own)
    except KeyboardInterrupt:  # before anything has begun
        return 130
    return run()


if __name__ == "__main__":
    sys.exit(main())
