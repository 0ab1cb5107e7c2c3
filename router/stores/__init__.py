"""Where money, keys and outcomes are kept: SQLite and Redis behind the same ports."""
