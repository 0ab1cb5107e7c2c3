"""The ledger, the log and the records of many hosts, in Redis."""
