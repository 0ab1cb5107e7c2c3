"""The wire: one route module a surface."""
