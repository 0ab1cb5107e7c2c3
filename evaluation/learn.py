"""`pointsman learn`: rows of a trace, read one by one and checked before any of them is sent to a running gateway.

A file is .parquet, .csv or .jsonl with the columns `prompt`, `score:MODEL` and `cost:MODEL`, or RouterBench's form,
`prompt`, MODEL and MODEL|total_cost. What does not fit is a SettingsError that names the lines.
"""

from __future__ import annotations

import csv
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any
from urllib.parse import quote

from router.errors import SettingsError
from router.settings.extras import install_line

AT_ONCE = 100  # rows of one request …
BYTES_AT_ONCE = 8 * 2**20  # … and of its body, but for a row that is longer by itself
LONGEST_FIELD = 16 * 2**20  # of a .csv: no gateway takes a longer body by default
MOST_SAID = 10  # lines that are refused by name
SUFFIX = "|total_cost"
Line = tuple[int, Mapping[str, Any]]
Post = Callable[[str, Mapping[str, Any]], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Labels:
    """One query and what each arm earned and cost on it."""

    line: int
    prompt: str
    scores: Mapping[str, float]  # by arm
    costs: Mapping[str, float]  # USD


def read_lines(path: Path) -> Iterator[Line]:
    """Each row with its line: of text files as an editor counts, of tables from 1. Raises: SettingsError."""
    readers = {".parquet": _parquet, ".csv": _csv, ".jsonl": _jsonl}
    if path.suffix not in readers:
        raise SettingsError(f"{path} is neither .parquet, .csv nor .jsonl", param=str(path))
    try:
        yield from readers[path.suffix](path)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SettingsError(f"{path} cannot be read: {error}", param=str(path)) from error


def _csv(path: Path) -> Iterator[Line]:
    with path.open(newline="") as file:
        csv.field_size_limit(LONGEST_FIELD)
        reader = csv.DictReader(file)
        _each_once(path, reader.fieldnames or ())
        for row in reader:
            yield reader.line_num, row


def _jsonl(path: Path) -> Iterator[Line]:
    with path.open() as file:
        for number, line in enumerate(file, 1):
            try:
                row = json.loads(line)
            except ValueError as error:
                raise SettingsError(f"{path}, line {number}: {error}", param=str(path)) from error
            if not isinstance(row, dict):
                raise SettingsError(f"{path}, line {number}: expected an object", param=str(path))
            yield number, row


def _parquet(path: Path) -> Iterator[Line]:
    try:
        from pyarrow import ArrowException, parquet  # noqa: PLC0415  # an extra
    except ImportError as error:
        raise SettingsError(f"reading parquet needs the extra `replay`: {install_line(['replay'])}") from error
    try:
        number, file = 0, parquet.ParquetFile(path)
        _each_once(path, file.schema_arrow.names)
        for batch in file.iter_batches(batch_size=1_000):
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except ArrowException as error:
        raise SettingsError(f"{path} cannot be read: {error}", param=str(path)) from error


def _each_once(path: Path, columns: Iterable[str]) -> None:
    """Raises: SettingsError where a column stands twice."""
    twice = [name for name, count in Counter(columns).items() if count > 1]
    if twice:
        raise SettingsError(f"{path} has the column {twice[0]} twice", param=str(path))


def labels(path: Path, arms: Mapping[str, str]) -> Iterator[Labels]:
    """Every row of a file, its models named as the gateway names them. Raises: SettingsError with the lines refused."""
    refused: list[str] = []
    seen: dict[bytes, int] = {}
    for line, row in read_lines(path):
        try:
            found = _labels(line, row, arms)
            key = blake2b(found.prompt.encode("utf-8", "surrogatepass"), digest_size=16).digest()
            if (first := seen.setdefault(key, line)) != line:
                raise ValueError(f"the prompt of line {first} again")
        except ValueError as error:
            refused.append(f"line {line}: {error}")
        else:
            if not refused:
                yield found
        if len(refused) == MOST_SAID:
            break
    if refused:
        raise SettingsError(f"{path} is refused: {'; '.join(refused)}", param=str(path))


def _labels(line: int, row: Mapping[str, Any], arms: Mapping[str, str]) -> Labels:
    """Raises: ValueError."""
    prompt = row.get("prompt")
    if not isinstance(prompt, str) or not prompt:
        raise ValueError("there is no prompt")
    scores, costs = {}, {}
    for model, (score, cost) in _columns(row).items():
        arm = arms.get(model, model)
        if arm in scores:
            raise ValueError(f"two models are mapped to {arm}")
        scores[arm] = _number(row.get(score), score, most=1.0)
        costs[arm] = _number(row.get(cost), cost, most=math.inf)
    if not scores:
        raise ValueError("there are no columns score:MODEL and cost:MODEL")
    return Labels(line, prompt, scores, costs)


def _columns(row: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """(score, cost) columns by model."""
    own = [str(key).removeprefix("score:") for key in row if str(key).startswith("score:")]
    if own:
        return {model: (f"score:{model}", f"cost:{model}") for model in own}
    models = [str(key).removesuffix(SUFFIX) for key in row if str(key).endswith(SUFFIX)]
    return {model: (model, f"{model}{SUFFIX}") for model in models}


def _number(value: Any, column: str, *, most: float) -> float:
    """Raises: ValueError."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{column} is {value!r}, expected a number") from None
    if not 0.0 <= number <= most or math.isinf(number):
        raise ValueError(f"{column} is {number:g}, expected {'0 … 1' if most == 1.0 else 'USD of at least 0'}")
    return number


def count_lines(path: Path, arms: Mapping[str, str]) -> int:
    """Rows of a file that is fit to be taught. Raises: SettingsError."""
    return sum(1 for _ in labels(path, arms))


def teach(path: Path, name: str, arms: Mapping[str, str], *, post: Post, on_progress: Callable[[int], None]) -> int:
    """Send a file's rows under a name; how many were new. It may be called again: what was sent is known.

    Raises: SettingsError before anything is sent where a line does not fit; what `post` raises.
    """
    if not count_lines(path, arms):
        raise SettingsError(f"{path} has no rows", param=str(path))
    stored, at = 0, f"/admin/v1/histories/{quote(name, safe='')}"
    for rows in _parts(labels(path, arms)):
        stored += int(post(f"{at}/rows", {"rows": rows})["stored"])
        on_progress(len(rows))
    post(at, {})
    return stored


def _parts(left: Iterable[Labels]) -> Iterator[list[dict[str, Any]]]:
    """The rows of one request after another."""
    part: list[dict[str, Any]] = []
    size = 0
    for each in left:
        row = {"line": each.line, "prompt": each.prompt, "scores": each.scores, "costs": each.costs}
        size += (more := len(json.dumps(row)))
        if part and (len(part) == AT_ONCE or size > BYTES_AT_ONCE):
            yield part
            part, size = [], more
        part.append(row)
    if part:
        yield part
