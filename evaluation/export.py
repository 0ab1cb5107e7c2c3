"""The outcome log as a parquet file, one row a decision, and back.

Columns are those of a trace, `prompt`, `score:MODEL` and `cost:MODEL` (USD), empty but for the model that answered,
and what people look at: `propensity`, and for each candidate `probability:`, `quality:`, `sigma:`, `expected_cost:`
and `price:MODEL`. The records themselves stand in `decision`, `settlement` and `feedback`, as the log has them. Needs
the extra `replay`; a file that cannot be read is a SettingsError.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Mapping
from pathlib import Path
from typing import Any

from policies.composed import prices_of
from policies.types import Float
from router.errors import SettingsError
from router.settings.extras import install_line
from router.stores.codec import KINDS, decode, encode
from router.types import NANO_PER_USD, DecisionRecord, Feedback, LogEntry, Notice, SettlementRecord

RECORDS: dict[str, type[LogEntry]] = {
    "decision": DecisionRecord,
    "settlement": SettlementRecord,
    "feedback": Feedback,
}
SHOWN = ("decision_id", "at_ms", "key_id", "policy", "version", "model", "backend", "propensity")
SHOWN_OF_CONTEXT = ("tenant", "preference", "prompt_tokens", "prompt_characters")
SETTLED = ("completion_tokens", "latency_ms", "first_byte_ms", "outcome")


async def export(entries: AsyncIterable[tuple[str, LogEntry]], path: Path) -> int:
    """Write decisions with their settlements and their judgements; the number of rows."""
    rows: dict[str, dict[str, Any]] = {}
    async for _, entry in entries:
        if isinstance(entry, DecisionRecord):
            rows[entry.decision_id] = _decided(entry)
        elif not isinstance(entry, Notice) and (row := rows.get(entry.decision_id)) is not None:
            row.update(_judged(entry, row) if isinstance(entry, Feedback) else _settled(entry))
    columns = None if rows else ["prompt", *SHOWN, *SHOWN_OF_CONTEXT, *RECORDS]
    _pandas().DataFrame(list(rows.values()), columns=columns).to_parquet(path, index=False)
    return len(rows)


def is_export(path: Path) -> bool:
    """Whether a file was written by `export`, by its columns."""
    if path.suffix != ".parquet" or not path.exists():
        return False
    from pyarrow import ArrowInvalid, parquet  # noqa: PLC0415  # an extra

    try:
        return {"decision", "propensity"} <= set(parquet.read_schema(path).names)
    except ArrowInvalid:
        return False


def imported(path: Path) -> list[LogEntry]:
    """The entries a file was written from, in order of time. Raises: SettingsError."""
    if not is_export(path):
        raise SettingsError(f"{path} is no export of an outcome log", param=str(path))
    found: list[LogEntry] = []
    for row in _pandas().read_parquet(path).to_dict("records"):
        for column, kind in RECORDS.items():
            try:
                found += [decode(KINDS[kind], body) for body in _bodies(row.get(column))]
            except (ValueError, TypeError) as error:
                raise SettingsError(f"{path}: {row['decision_id']}, {column}: {error}", param=str(path)) from error
    return sorted(found, key=lambda entry: entry.at_ms)  # stable: a decision stays before what came of it at once


def _bodies(cell: Any) -> list[bytes]:
    if isinstance(cell, bytes):
        return [cell]
    return [] if cell is None or isinstance(cell, float) else list(cell)


def _decided(entry: DecisionRecord) -> dict[str, Any]:
    context, expected = entry.context, entry.evidence.expected
    row: dict[str, Any] = {"prompt": entry.text, **{name: getattr(entry, name) for name in SHOWN}}
    row |= {name: getattr(context, name) for name in SHOWN_OF_CONTEXT} | {"budget": context.budget.name}
    of_all: dict[str, Float] = {
        "probability": entry.probabilities,
        "quality": expected.quality,
        "sigma": expected.sigma,
        "expected_cost": expected.cost,
        "price": prices_of(context, entry.evidence),
    }
    for column, values in of_all.items():
        row |= {f"{column}:{name}": value for name, value in zip(context.names, values.tolist(), strict=True)}
    return row | {"decision": encode(entry)}


def _settled(entry: SettlementRecord) -> dict[str, Any]:
    row = {name: getattr(entry, name) for name in SETTLED} | {"settlement": encode(entry)}
    if entry.outcome == "settled":
        row[f"cost:{entry.model}"] = entry.cost / NANO_PER_USD
    return row


def _judged(entry: Feedback, row: Mapping[str, Any]) -> dict[str, Any]:
    judged = {"source": entry.source, "reliability": entry.reliability, "judged_ms": entry.at_ms}
    if entry.says_nothing:
        return {"feedback": [*row.get("feedback", ()), encode(entry)]}
    return {f"score:{row['model']}": entry.score, **judged, "feedback": [*row.get("feedback", ()), encode(entry)]}


def _pandas() -> Any:
    try:
        import pandas  # noqa: PLC0415  # an extra
    except ImportError as error:
        raise SettingsError(f"an export needs the extra `replay`: {install_line(['replay'])}") from error
    return pandas
