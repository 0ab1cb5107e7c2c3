"""The outcome log turned into an index of past queries and policies that were fitted on it."""
