"""Which models may be chosen from, and what settings make of backends, embedders and policies."""
