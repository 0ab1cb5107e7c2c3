"""Graders judge an answer without a person: by what was expected of it, or by the request's own schemas."""
