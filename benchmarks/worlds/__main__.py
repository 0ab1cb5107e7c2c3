"""`python -m benchmarks.worlds run A..B`, `replay SEED` and `mutants`. Fails where a world did."""

from __future__ import annotations

import sys

from benchmarks.worlds.command import main

sys.exit(main(sys.argv[1:]))
