"""Labelled histories: queries that every model answered, which the operator gives a gateway to begin with.

They are the operator's evidence: their tenant is nobody, and they are removed by name.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

ROOM = "history"  # of the archive; its owners are names of histories
OPERATORS = "|"  # begins the tenant of a history's rows: no tenant's name holds it


class LabelledRow(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One query and what each model earned and cost on it, as the archive keeps it."""

    line: int  # of the file
    scores: Mapping[str, float]  # in [0, 1], by model
    costs: Mapping[str, float]  # USD
    prompt_tokens: int
    prompt_characters: int
    features: bytes  # float32 (f,)
    embedding: bytes  # float16 (d,), in the space …
    space: str  # … of this name
    counts: bytes = b""  # of the query's n-grams, where they are kept
    text: str = ""


encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(LabelledRow).decode


def owner_of(name: str) -> str:
    """The tenant of a history's rows."""
    return f"{OPERATORS}{name}"


def name_of(tenant: str) -> str | None:
    """The history whose rows are of this tenant; None where it is a tenant."""
    return tenant.removeprefix(OPERATORS) if tenant.startswith(OPERATORS) else None
