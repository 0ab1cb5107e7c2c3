"""The outcome log as a parquet file, one row a decision, and back.

Columns are those of a trace, `prompt`, `score:MODEL` and `cost:MODEL` (USD), empty but for the model that answered,
and what is needed to judge another policy: `propensity`, `probability:MODEL`, `quality:MODEL`, `expected_cost:MODEL`,
`sigma:MODEL`, `price:MODEL`, the embedding. Needs the extra `replay`; a file that cannot be read is a SettingsError.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterable, Mapping
from pathlib import Path
from typing import Any, cast

from router.errors import SettingsError
from router.types import NANO_PER_USD, DecisionRecord, Feedback, LogEntry, NanoUsd, SettlementRecord

OF_A_CANDIDATE = {  # column -> field of DecisionRecord
    "probability": "probabilities",
    "quality": "quality",
    "expected_cost": "cost",
    "sigma": "sigma",
    "price": "prices",
}
LISTED = "charged"  # a column for each candidate and a field, where expected charges are not `expected_cost`
PLAIN: tuple[str, ...] = (
    "decision_id",
    "at_ms",
    "tenant",
    "key_id",
    "policy",
    "model",
    "propensity",
    "preference",
    "embedding",
)
PLAIN += ("prompt_tokens", "prompt_characters", "features", "purse", "backend")
SETTLED = ("completion_tokens", "latency_ms", "first_byte_ms", "outcome")


async def export(entries: AsyncIterable[tuple[str, LogEntry]], path: Path) -> int:
    """Write decisions with their settlements and their last judgements; the number of rows."""
    rows: dict[str, dict[str, Any]] = {}
    async for _, entry in entries:
        if isinstance(entry, DecisionRecord):
            rows[entry.decision_id] = _decided(entry)
        elif (row := rows.get(entry.decision_id)) is not None:
            row.update(_settled(entry) if isinstance(entry, SettlementRecord) else _judged(entry, row["model"]))
    columns = None if rows else ["prompt", *PLAIN]
    _pandas().DataFrame(list(rows.values()), columns=columns).to_parquet(path, index=False)
    return len(rows)


def is_export(path: Path) -> bool:
    """Whether a file was written by `export`, by its columns."""
    if path.suffix != ".parquet" or not path.exists():
        return False
    from pyarrow import ArrowInvalid, parquet  # noqa: PLC0415  # an extra

    try:
        return {"decision_id", "propensity"} <= set(parquet.read_schema(path).names)
    except ArrowInvalid:
        return False


def imported(path: Path) -> list[LogEntry]:
    """The entries a file was written from. Raises: SettingsError."""
    if not is_export(path):
        raise SettingsError(f"{path} is no export of an outcome log", param=str(path))
    entries: list[LogEntry] = []
    for row in _pandas().read_parquet(path).to_dict("records"):
        decision = _decision_of(row)
        entries += [decision, *_settlement_of(row, decision), *_feedback_of(row, decision)]
    return entries


def _decided(entry: DecisionRecord) -> dict[str, Any]:
    row: dict[str, Any] = {"prompt": entry.text, **{name: getattr(entry, name) for name in PLAIN}}
    row["metadata"] = json.dumps(dict(entry.metadata))
    for column, field in OF_A_CANDIDATE.items():
        values = zip(entry.candidates, getattr(entry, field), strict=True)
        row |= {f"{column}:{model}": value for model, value in values}
    return row | {f"{LISTED}:{model}": usd for model, usd in zip(entry.candidates, entry.charged, strict=False)}


def _settled(entry: SettlementRecord) -> dict[str, Any]:
    row = {name: getattr(entry, name) for name in SETTLED}
    if entry.outcome == "settled":
        row[f"cost:{entry.model}"] = entry.cost / NANO_PER_USD
        row["cost_nanousd"] = entry.cost
    return row


def _judged(entry: Feedback, model: str) -> dict[str, Any]:
    judged = {"source": entry.source, "reliability": entry.reliability, "judged_ms": entry.at_ms}
    return {f"score:{model}": entry.score, **judged}


def _decision_of(row: Mapping[str, Any]) -> DecisionRecord:
    given = [c.removeprefix("probability:") for c in row if c.startswith("probability:") and not _empty(row[c])]
    of_all: dict[str, Any] = {
        field: tuple(float(row[f"{column}:{model}"]) for model in given) for column, field in OF_A_CANDIDATE.items()
    }
    plain: dict[str, Any] = {name: row[name] for name in PLAIN if name in row}  # earlier exports lack some
    listed = [row.get(f"{LISTED}:{model}") for model in given]
    charged = () if any(_empty(usd) for usd in listed) else tuple(map(float, cast("list[float]", listed)))
    metadata = json.loads(row.get("metadata") or "{}")
    return DecisionRecord(
        text=row["prompt"], candidates=tuple(given), **of_all, **plain, charged=charged, metadata=metadata
    )


def _settlement_of(row: Mapping[str, Any], decision: DecisionRecord) -> list[LogEntry]:
    if _empty(row.get("outcome")):
        return []
    cost = 0 if _empty(row.get("cost_nanousd")) else int(row["cost_nanousd"])
    times = (float(row["latency_ms"]), float(row["first_byte_ms"]))
    tokens = (decision.prompt_tokens, int(row["completion_tokens"]))
    ended = decision.at_ms + int(times[0])
    return [
        SettlementRecord(decision.decision_id, ended, decision.model, NanoUsd(cost), *tokens, row["outcome"], *times)
    ]


def _feedback_of(row: Mapping[str, Any], decision: DecisionRecord) -> list[LogEntry]:
    score = row.get(f"score:{decision.model}")
    if _empty(score):
        return []
    judged_ms, reliability = int(row["judged_ms"]), float(row["reliability"])
    return [Feedback(decision.decision_id, judged_ms, float(score or 0.0), row["source"], reliability)]


def _empty(value: object) -> bool:
    return value is None or value != value  # NaN  # noqa: PLR0124


def _pandas() -> Any:
    try:
        import pandas  # noqa: PLC0415  # an extra
    except ImportError as error:
        raise SettingsError("an export needs: pip install 'pointsman[replay]'") from error
    return pandas
