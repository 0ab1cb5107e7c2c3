"""Traces with every model's score and cost on every query, read from files; an unfit file is a SettingsError."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from numpy.typing import NDArray

from backends.embedders.hashing import HashingEmbedder
from policies.records import to_half
from policies.replay import Rows
from policies.simulation import QueryStream
from policies.types import Arm, Float, Float32, History
from router.errors import SettingsError
from router.gateway.types import GENERIC_BYTES_PER_TOKEN
from router.settings.extras import install_line

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class Trace:
    """N queries answered by all M models."""

    name: str
    prompts: tuple[str, ...]  # (N,)
    tasks: NDArray[np.str_]  # (N,), "" where the file has none
    models: tuple[str, ...]  # (M,)
    scores: Float  # (N, M), in [0, 1]
    costs: Float  # (N, M), USD

    @property
    def arms(self) -> tuple[Arm, ...]:
        """Models without list prices: what they charge is learnt."""
        return tuple(Arm(model, 0.0, 0.0) for model in self.models)

    def __len__(self) -> int:
        return len(self.prompts)


def read_trace(path: Path) -> Trace:
    """A .parquet or .csv file with columns prompt, score:MODEL and cost:MODEL, or RouterBench's pickle (.pkl, which
    must come from somebody you trust: reading a pickle runs what is in it).

    Rows without a prompt, or without a score or cost of some model, are left out.
    Raises: SettingsError where the file is missing, is of another kind, lacks columns, or holds what is no score in
    [0, 1] and no cost of at least zero.
    """
    table = _read_table(path)
    models = [column.removeprefix("score:") for column in table.columns if str(column).startswith("score:")]
    if not models:
        raise SettingsError(f"{path} has no columns score:MODEL", param=str(path))
    missing = [column for column in ("prompt", *(f"cost:{model}" for model in models)) if column not in table.columns]
    if missing:
        raise SettingsError(f"{path} lacks the columns {', '.join(missing)}", param=str(path))
    scores, costs = [f"score:{model}" for model in models], [f"cost:{model}" for model in models]
    table = table.dropna(subset=["prompt", *scores, *costs])
    if table.empty:
        raise SettingsError(f"{path} has no row with a prompt and every model's score and cost", param=str(path))
    tasks = table["task"] if "task" in table.columns else np.full(len(table), "")
    return Trace(
        name=path.stem,
        prompts=tuple(str(prompt) for prompt in table["prompt"]),
        tasks=np.asarray(tasks, dtype=np.str_),
        models=tuple(models),
        scores=_numbers(path, table, scores, most=1.0),
        costs=_numbers(path, table, costs, most=np.inf),
    )


def _numbers(path: Path, table: pd.DataFrame, columns: list[str], *, most: float) -> Float:
    """(N, M) of these columns. Raises: SettingsError with the first cell that is no number from zero to `most`."""
    for column in columns:
        try:
            values = table[column].to_numpy(np.float64)
        except (TypeError, ValueError) as error:
            raise SettingsError(f"{path}, column {column}: {error}, expected numbers", param=column) from error
        wrong = np.flatnonzero(~np.isfinite(values) | (values < 0.0) | (values > most))
        if len(wrong):
            expected = "a score in [0, 1]" if most == 1.0 else "USD of at least zero"
            where = f"{path}, column {column}, row {table.index[wrong[0]]}"
            raise SettingsError(f"{where}: {values[wrong[0]]:g}, expected {expected}", param=column)
    return np.asarray(table[columns], dtype=np.float64)


def _read_table(path: Path) -> pd.DataFrame:
    """The file as a table with this module's column names."""
    try:
        import pandas as pd  # noqa: PLC0415  # an extra: only replays read tables
    except ImportError as error:
        raise SettingsError(f"reading traces needs the extra `replay`: {install_line(['replay'])}") from error
    if not path.is_file():
        raise SettingsError(f"there is no trace {path}", param=str(path))
    readers = {".parquet": pd.read_parquet, ".csv": pd.read_csv, ".pkl": pd.read_pickle, ".pickle": pd.read_pickle}
    if path.suffix not in readers:
        raise SettingsError(f"{path} is neither .parquet, .csv nor .pkl", param=str(path))
    try:
        table = readers[path.suffix](path)
    except Exception as error:  # what a broken file raises depends on which library reads it
        raise SettingsError(f"{path} cannot be read as {path.suffix}: {error}", param=str(path)) from error
    if not isinstance(table, pd.DataFrame):
        raise SettingsError(f"{path} holds a {type(table).__name__}, expected a table", param=str(path))
    return _renamed(table) if path.suffix.startswith(".p") and path.suffix != ".parquet" else table


def _renamed(table: pd.DataFrame) -> pd.DataFrame:
    """RouterBench's columns MODEL and MODEL|total_cost (arXiv 2403.12031) as score:MODEL and cost:MODEL."""
    suffix = "|total_cost"
    models = [str(column).removesuffix(suffix) for column in table.columns if str(column).endswith(suffix)]
    names = {model: f"score:{model}" for model in models} | {f"{model}{suffix}": f"cost:{model}" for model in models}
    if "eval_name" in table.columns:
        names["eval_name"] = "task"
    return table.rename(columns=names)


@dataclass(frozen=True, slots=True)
class Sample:
    """One split of a trace, embedded by what was fitted on its history only."""

    stream: QueryStream
    history: History
    rows: Rows  # (N,) rows of the trace in the stream


def embed_split(trace: Trace, rows: Rows, past: Rows) -> Sample:
    """Stream rows in order and history rows, in the hashing embedder's space."""
    embedder = HashingEmbedder()
    embedder.fit([trace.prompts[row] for row in past])
    return Sample(_stream(trace, rows, embedder), _history(trace, past, embedder), rows)


def embed_whole(trace: Trace) -> History:
    """Every row, shuffled by a fixed seed, embedded by what was fitted on all of them: for tuning, not judging."""
    embedder = HashingEmbedder()
    embedder.fit(trace.prompts)
    return _history(trace, np.random.default_rng(0).permutation(len(trace)), embedder)


def _stream(trace: Trace, rows: Rows, embedder: HashingEmbedder) -> QueryStream:
    texts = [trace.prompts[row] for row in rows]
    tokens, characters = _lengths(texts)
    return QueryStream(
        arms=trace.arms,
        embeddings=_kept(embedder, texts),
        scores=trace.scores[rows],
        costs=trace.costs[rows],
        prompt_tokens=tokens,
        prompt_characters=characters,
        features=_features(texts, embedder),
    )


def _history(trace: Trace, rows: Rows, embedder: HashingEmbedder) -> History:
    texts = [trace.prompts[row] for row in rows]
    tokens, characters = _lengths(texts)
    return History(
        embeddings=_kept(embedder, texts),
        arms=trace.arms,
        scores=trace.scores[rows],
        costs=trace.costs[rows],
        prompt_tokens=tokens,
        prompt_characters=characters,
        features=_features(texts, embedder),
    )


def _kept(embedder: HashingEmbedder, texts: list[str]) -> Float32:
    """(n, d) as a gateway keeps them."""
    return to_half(embedder.embed_now(texts))


def _lengths(texts: list[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(tokens (n,) estimated as for requests, characters (n,))."""
    characters = np.array([len(text) for text in texts], np.int64)
    lengths = np.array([len(msgspec.json.encode(text)) - len('""') for text in texts], np.int64)
    return (lengths / GENERIC_BYTES_PER_TOKEN).astype(np.int64) + 1, characters


def _features(texts: list[str], embedder: HashingEmbedder) -> Float32:
    return np.stack([embedder.features(text) for text in texts])
