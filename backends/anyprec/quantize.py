"""Turns a Hugging Face checkpoint into a store, one decoder layer at a time, and picks up where it was stopped.

Memory holds one decoder layer's codes and a few rows of weights. A finished shard is renamed into place, so a file
that stands is whole; a run that starts again keeps it. Fails with Unsupported, Corrupt or NoRoom before it writes.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress as BarProgress
from rich.progress import TextColumn
from safetensors.numpy import save_file

from backends.anyprec import store as format_
from backends.anyprec.checkpoint import SIDE_FILES, Checkpoint, open_checkpoint
from backends.anyprec.dp_numba import Floats
from backends.anyprec.errors import NoRoom, Unsupported
from backends.anyprec.nested_kmeans import balance, nest_rows, sort_row
from backends.anyprec.tensors import INDEX_NAME, TensorFolder

TABLES_AT_ONCE, WEIGHTS_AT_ONCE = 32, 1 << 18  # nested in one call: a few megabytes a thread
TIMED_TABLES = 4  # on which the time of a run is estimated
BALANCING_TABLES = 16  # rows of a matrix on which the widths are weighed against each other
STATE_NAME = "quantize.state.json"  # names the run a half-written folder belongs to; gone when it is done
Progress = Callable[[int, int, str], None]  # (weights done, weights in all, what is being done)


@dataclass(frozen=True, slots=True)
class Plan:
    """One run: what is read, what is written, and how."""

    checkpoint: Checkpoint
    out: Path
    bits: tuple[int, ...]
    rows_per_table: int
    sensitivity: TensorFolder | None
    workers: int

    def shard(self, number: int) -> Path:
        """File of decoder layer `number`, or of the rest for number = layers."""
        return self.out / f"model-{number + 1:05d}-of-{self.checkpoint.shape.layers + 1:05d}.safetensors"


@dataclass(frozen=True, slots=True)
class QuantizeReport:
    """What was written."""

    out: Path
    weights: int  # quantized ones
    payload_bytes: int  # all tensors
    bytes_per_weight: float  # codes and tables of the quantized layers
    warnings: tuple[str, ...]


def parse_bits(text: str) -> tuple[int, ...]:
    """ "3-8" or "3,4,8" to widths in order. Raises: Unsupported outside 2 … 8."""
    try:
        if "-" in text:
            low, high = (int(part) for part in text.split("-"))
            widths = tuple(range(low, high + 1))
        else:
            widths = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError as error:
        raise Unsupported(f"bits {text!r}: expected 3-8 or 3,4,8") from error
    if not widths or widths[0] < 2 or widths[-1] > 8:
        raise Unsupported(f"bits {text!r}: widths go from 2 to 8")
    return widths


def quantize(
    checkpoint: Path,
    out: Path,
    *,
    bits: Sequence[int] = (3, 4, 5, 6, 7, 8),
    rows_per_table: int = 1,
    sensitivity: Path | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
    estimated: Callable[[float, int], None] | None = None,
    free_bytes: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free,
) -> QuantizeReport:
    """Write a store of `checkpoint` at every width in `bits` into `out`.

    `sensitivity`: a safetensors file with a non-negative tensor (N, K) for every linear weight, by its name; uniform
    without. `estimated` is told, before the first matrix, how many seconds all will take on how many threads.
    Raises: Unsupported, Corrupt, NoRoom.
    """
    sensitivities = TensorFolder(sensitivity) if sensitivity else None
    threads = workers or os.cpu_count() or 1
    plan = Plan(
        open_checkpoint(Path(checkpoint)), Path(out), tuple(sorted(bits)), rows_per_table, sensitivities, threads
    )
    _check_rows(plan)
    report = _report(plan)
    _begin(plan, needed_bytes=report.payload_bytes, free_bytes=free_bytes)
    if estimated is not None:
        estimated(estimated_s(plan), threads)
    ticks = _Ticks(report.weights, progress)
    for layer in range(plan.checkpoint.shape.layers):
        _write_layer(plan, layer, ticks)
    _write_rest(plan)
    _finish(plan)
    return report


class _Ticks:
    """Counts weights for the progress callback."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._done, self._total, self._progress = 0, total, progress

    def add(self, weights: int, what: str) -> None:
        self._done += weights
        if self._progress:
            self._progress(self._done, self._total, what)


def _shapes(plan: Plan) -> dict[str, tuple[int, int]]:
    shape = plan.checkpoint.shape
    return {name: size for layer in range(shape.layers) for name, size in shape.linears(layer).items()}


def _check_rows(plan: Plan) -> None:
    if not plan.bits or min(plan.bits) < 2 or max(plan.bits) > 8:
        raise Unsupported(f"bits {list(plan.bits)}: widths go from 2 to 8")
    for name, (rows, columns) in _shapes(plan).items():
        if plan.rows_per_table < 1 or rows % plan.rows_per_table:
            raise Unsupported(f"rows_per_table {plan.rows_per_table} does not divide the {rows} rows of {name}")
        found = plan.sensitivity.entry(f"{name}.weight").shape if plan.sensitivity else (rows, columns)
        if found != (rows, columns):
            raise Unsupported(f"sensitivity of {name}.weight is {found}, the weight is {(rows, columns)}")


def _report(plan: Plan) -> QuantizeReport:
    shapes = list(_shapes(plan).values())
    plain = sum(int(np.prod(plan.checkpoint.tensors.entry(name).shape)) for name in plan.checkpoint.plain())
    weights = sum(rows * columns for rows, columns in shapes)
    payload = format_.payload_bytes(shapes, bits=plan.bits, rows_per_table=plan.rows_per_table, plain_numbers=plain)
    per_weight = (payload - 2 * plain) / weights
    codes = sum(max(plan.bits) * rows * format_.words(columns) * 4 for rows, columns in shapes)
    tables = payload - 2 * plain - codes
    warnings = (_table_warning(plan, codes, tables, per_weight),) if tables > codes else ()
    return QuantizeReport(plan.out, weights, payload, per_weight, warnings)


def _table_warning(plan: Plan, codes: int, tables: int, per_weight: float) -> str:
    return (
        f"the tables of bits {list(plan.bits)} take {tables:,} bytes and the codes {codes:,}: {per_weight:.2f} bytes a "
        f"weight where float16 takes 2. Stop at 6 bits, or share a table between rows (now {plan.rows_per_table})."
    )


def _fingerprint(plan: Plan) -> str:
    """Names a run: the same checkpoint files, sensitivity and widths."""
    parts: list[object] = [plan.checkpoint.config, plan.bits, plan.rows_per_table]
    for tensors in (plan.checkpoint.tensors, plan.sensitivity):
        for file in sorted({tensors.entry(name).file for name in tensors.names}) if tensors else ():
            parts.append([str(file), file.stat().st_size, file.stat().st_mtime_ns])
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _begin(plan: Plan, *, needed_bytes: int, free_bytes: Callable[[Path], int]) -> None:
    plan.out.mkdir(parents=True, exist_ok=True)
    state, fingerprint = plan.out / STATE_NAME, _fingerprint(plan)
    if state.exists() and state.read_text() != fingerprint:
        raise Unsupported(f"{plan.out} holds an unfinished run with other settings; remove it or choose another folder")
    if not state.exists() and any(plan.out.iterdir()):
        raise Unsupported(f"{plan.out} is not empty")
    done = sum(file.stat().st_size for file in plan.out.glob("model-*.safetensors"))
    if (free := free_bytes(plan.out)) < needed_bytes - done:
        raise NoRoom(f"{plan.out}: {needed_bytes - done:,} bytes to write, {free:,} free")
    state.write_text(fingerprint)


def _save(tensors: dict[str, NDArray[Any]], file: Path) -> None:
    partial = file.with_suffix(".partial")
    save_file(tensors, partial, metadata={"format": "pt"})
    with partial.open("rb") as handle:
        os.fsync(handle.fileno())
    partial.rename(file)


def _write_layer(plan: Plan, layer: int, ticks: _Ticks) -> None:
    linears = plan.checkpoint.shape.linears(layer)
    if plan.shard(layer).exists():
        ticks.add(sum(rows * columns for rows, columns in linears.values()), f"layer {layer}, kept")
        return
    tensors: dict[str, NDArray[Any]] = {}
    for name, size in linears.items():
        tensors.update(_quantized(plan, name, size))
        ticks.add(size[0] * size[1], name)
    prefix = f"model.layers.{layer}."
    for name in plan.checkpoint.plain():
        if name.startswith(prefix):
            tensors[name] = _half(plan.checkpoint.tensors.read(name), name)
    _save(tensors, plan.shard(layer))


def _write_rest(plan: Plan) -> None:
    number = plan.checkpoint.shape.layers
    if not plan.shard(number).exists():
        names = [name for name in plan.checkpoint.plain() if not name.startswith("model.layers.")]
        _save({name: _half(plan.checkpoint.tensors.read(name), name) for name in names}, plan.shard(number))


def _half(values: NDArray[np.floating[Any]], name: str) -> NDArray[np.float16]:
    """Raises: Unsupported for values float16 cannot hold."""
    limit = float(np.finfo(np.float16).max)
    if not np.all(np.abs(values) <= limit):  # NaN fails too
        raise Unsupported(f"{name} holds values beyond float16's ±{limit:.0f}, or NaN")
    return values.astype(np.float16)


def _quantized(plan: Plan, name: str, size: tuple[int, int]) -> dict[str, NDArray[Any]]:
    """Planes and tables of one linear layer (N, K)."""
    rows, columns = size
    codes = np.empty((rows, columns), np.uint8)
    tables = {k: np.empty((rows // plan.rows_per_table, 2**k), np.float16) for k in plan.bits}
    with ThreadPoolExecutor(plan.workers) as pool:
        width_weights = _balanced(plan, name, rows, pool)
        batches = _batches(plan, rows, columns)
        nested = pool.map(lambda batch: _nest(plan, name, batch, width_weights), batches)
        for batch, (found, values) in zip(batches, nested, strict=True):
            codes[batch] = found.reshape(-1, columns)
            for k in plan.bits:
                tables[k][batch.start // plan.rows_per_table :][: len(values[k])] = _half(values[k], name)
    planes = format_.pack(codes, parent_bits=max(plan.bits))
    return {f"{name}.planes": planes, **{f"{name}.lut{k}": table for k, table in tables.items()}}


def _groups(plan: Plan, rows: int) -> list[slice]:
    return [slice(first, first + plan.rows_per_table) for first in range(0, rows, plan.rows_per_table)]


def _batches(plan: Plan, rows: int, columns: int) -> list[slice]:
    """Rows that are nested in one call: so many that every thread has some, and memory holds them."""
    tables, deep = rows // plan.rows_per_table, columns * plan.rows_per_table
    step = plan.rows_per_table * max(1, min(TABLES_AT_ONCE, tables // plan.workers, WEIGHTS_AT_ONCE // deep))
    return [slice(first, min(rows, first + step)) for first in range(0, rows, step)]


def _balanced(plan: Plan, name: str, rows: int, pool: ThreadPoolExecutor) -> Floats:
    """What errors at each width weigh in this matrix, from up to BALANCING_TABLES of its table rows."""
    groups = _groups(plan, rows)
    chosen = groups[:: -(-len(groups) // BALANCING_TABLES)]
    sums = [sort_row(*_read(plan, name, group))[2] for group in chosen]
    return balance(sums, bits=plan.bits, each=pool.map)


def _read(plan: Plan, name: str, group: slice) -> tuple[Floats, Floats]:
    """Weights and sensitivities of one table row, end to end (M,)."""
    weights = plan.checkpoint.tensors.read(f"{name}.weight", rows=group).astype(np.float64).ravel()
    if plan.sensitivity is None:
        return weights, np.ones_like(weights)
    return weights, plan.sensitivity.read(f"{name}.weight", rows=group).astype(np.float64).ravel()


def _nest(plan: Plan, name: str, batch: slice, width_weights: Floats) -> tuple[NDArray[np.uint8], dict[int, Floats]]:
    """Codes (R, M) and tables {k: (R, 2^k)} of the table rows of a batch."""
    tables = (batch.stop - batch.start) // plan.rows_per_table
    weights, sensitivity = (each.reshape(tables, -1) for each in _read(plan, name, batch))
    return nest_rows(weights, sensitivity, bits=plan.bits, width_weights=width_weights)


def estimated_s(plan: Plan, clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds a run would take, from a few rows of the first matrix. Raises: Unsupported, Corrupt."""
    name, (rows, columns) = next(iter(_shapes(plan).items()))
    few = [slice(0, group.stop) for group in _groups(plan, rows)[:TIMED_TABLES]][-1]
    sums = [sort_row(*_read(plan, name, group))[2] for group in _groups(plan, rows)[:TIMED_TABLES]]
    width_weights = balance(sums, bits=plan.bits)  # compiles what was not
    _nest(plan, name, few, width_weights)
    began = clock()
    balance(sums, bits=plan.bits)
    weighed = clock()
    _nest(plan, name, few, width_weights)
    per_weight = (clock() - weighed) / ((few.stop - few.start) * columns)
    per_balance = (weighed - began) / len(sums) * BALANCING_TABLES
    sizes = [wide * deep for wide, deep in _shapes(plan).values()]
    return float(per_weight * sum(sizes) + per_balance * len(sizes)) / plan.workers


def in_words(seconds: float) -> str:
    """About so long, in the unit in which a person would say it."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def _finish(plan: Plan) -> None:
    """Copy the tokenizer, write the index and, last of all, config.json with the checksums."""
    shards = [plan.shard(number) for number in range(plan.checkpoint.shape.layers + 1)]
    where = {name: file.name for file in shards for name in TensorFolder(file).names}
    total = sum(TensorFolder(file).entry(name).size_bytes for file in shards for name in TensorFolder(file).names)
    index = {"metadata": {"total_size": total}, "weight_map": where}
    (plan.out / INDEX_NAME).write_text(json.dumps(index, indent=1, sort_keys=True))
    copied = [plan.checkpoint.folder / name for name in SIDE_FILES if (plan.checkpoint.folder / name).is_file()]
    for file in copied:
        shutil.copyfile(file, plan.out / file.name)
    files = [*(file.name for file in shards), INDEX_NAME, *(file.name for file in copied)]
    config = _config(plan, {name: format_.sha256_of(plan.out / name) for name in files})
    (plan.out / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True))
    (plan.out / STATE_NAME).unlink()


def _config(plan: Plan, checksums: dict[str, str]) -> dict[str, Any]:
    padded = {name: columns for name, (_, columns) in _shapes(plan).items() if columns % format_.WORD_BITS}
    quantization: dict[str, Any] = {
        "quant_method": format_.METHOD,
        "version": format_.VERSION,
        "bits": list(plan.bits),
        "rows_per_table": plan.rows_per_table,
        "in_features": padded,
        "checksums": checksums,
    }
    config = {key: value for key, value in plan.checkpoint.config.items() if key != "torch_dtype"}
    config |= {"dtype": format_.ACTIVATIONS, "quantization_config": quantization}
    quantization["config_sha256"] = format_.config_digest(config)
    return config


def run(
    checkpoint: Path,
    *,
    out: Path,
    bits: str = "3-8",
    rows_per_table: int = 1,
    sensitivity: Path | None = None,
    calibration: Path | None = None,
    workers: int | None = None,
) -> QuantizeReport:
    """What `pointsman quantize` does: `quantize` under a progress bar, with what it wrote said in words.

    `calibration`: a text file; its sensitivities are measured first and kept beside `out` (needs the `compensate`
    extra). Raises: AnyprecError.
    """
    console = Console(stderr=True)
    if calibration is not None and sensitivity is None:
        from backends.anyprec.fisher import measure  # noqa: PLC0415  # torch only where it is asked for

        sensitivity = Path(out).with_name(Path(out).name + ".fisher.safetensors")
        console.print(f"measuring sensitivities on {calibration}")
        measure(Path(checkpoint), Path(calibration), out=sensitivity)
    columns = (*BarProgress.get_default_columns(), TextColumn("{task.fields[what]}"))
    with BarProgress(*columns, console=console) as bar:
        task = bar.add_task("quantizing", total=None, what="")
        report = quantize(
            checkpoint,
            out,
            bits=parse_bits(bits),
            rows_per_table=rows_per_table,
            sensitivity=sensitivity,
            workers=workers,
            estimated=lambda seconds, threads: console.print(f"about {in_words(seconds)} on {threads} threads"),
            progress=lambda done, total, what: bar.update(task, completed=done, total=total, what=what),
        )
    if calibration is not None:
        from backends.anyprec.profiling import add_distances  # noqa: PLC0415  # the engine, only where it is asked for

        console.print(f"measuring what each width loses on {calibration}")
        add_distances(Path(out), Path(calibration))
    for warning in report.warnings:
        console.print(f"[yellow]warning:[/] {warning}")
    console.print(f"{report.out}: {report.payload_bytes:,} bytes, {report.bytes_per_weight:.2f} a quantized weight")
    return report
