"""The ledger, the log and the records of one machine, in SQLite."""
