"""The verbs that make, serve and admit models: quantize, profile, compensate, engine, admit."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cli.config import add_config
from router.errors import PointsmanError

Verbs = Any  # argparse gives its subparsers no public type


def add_verbs(verbs: Verbs) -> None:
    """Add quantize, profile, compensate, engine and admit."""
    quantize = verbs.add_parser("quantize", help="pack a checkpoint into one store of every width")
    quantize.add_argument("checkpoint", type=Path, help="a Llama, Qwen2 or Mistral folder in Hugging Face's format")
    quantize.add_argument("--bits", default="3-8", help="widths, as 3-8 or 3,4,6 (default 3-8)")
    quantize.add_argument("--out", type=Path, required=True, help="the folder to write")
    quantize.add_argument("--rows-per-table", type=int, default=1, help="rows that share a table (default 1)")
    quantize.add_argument("--calibration", type=Path, help="text, one sample a line, for the diagonal Fisher")
    quantize.add_argument("--sensitivity", type=Path, help="a safetensors file of sensitivities instead")
    quantize.set_defaults(run=_quantize)
    engine = verbs.add_parser("engine", help="serve stores alone, as an OpenAI-compatible server")
    engine.add_argument("store", type=Path, nargs="+", help="folders quantize wrote")
    engine.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    engine.add_argument("--port", type=int, default=8100, help="port to listen on (default 8100)")
    engine.set_defaults(run=_engine)
    _add_profile(verbs)
    _add_compensate(verbs)
    _add_admit(verbs)


def _add_profile(verbs: Verbs) -> None:
    profile = verbs.add_parser("profile", help="give every layer of a store its own width, for a fractional mean")
    profile.add_argument("store", type=Path, help="the folder quantize wrote; the profile goes into its profiles/")
    profile.add_argument("--bits", type=float, required=True, help="the mean, as 3.25: MODEL@3.25bit")
    profile.add_argument("--calibration", type=Path, required=True, help="text, or a .jsonl of chats, to measure on")
    profile.set_defaults(run=_profile)


def _add_compensate(verbs: Verbs) -> None:
    compensate = verbs.add_parser("compensate", help="write a LoRA adapter that wins back what a width lost")
    compensate.add_argument("store", type=Path, help="the folder quantize wrote; the adapter goes into its adapters/")
    compensate.add_argument("--checkpoint", type=Path, required=True, help="the full-precision folder")
    compensate.add_argument("--text", type=Path, required=True, help="calibration text, one sample a line")
    compensate.add_argument("--bits", type=int, required=True, help="the width to compensate")
    compensate.add_argument("--rank", type=int, default=16, help="rank of the adapter (default 16)")
    compensate.add_argument("--bytes", type=int, help="at most so many; the layers that gain most a byte (default all)")
    compensate.add_argument("--name", default="eora", help="of the adapter: MODEL@WIDTH+NAME (default eora)")
    compensate.set_defaults(run=_compensate)


def _add_admit(verbs: Verbs) -> None:
    admit = verbs.add_parser("admit", help="compare a compressed variant with its parent before it may receive traffic")
    admit.add_argument("model", help="MODEL@WIDTH, as the gateway names it")
    admit.add_argument("--parent", help="what to compare it with (default: its widest relative)")
    add_config(admit, otherwise="the embedded family")
    admit.add_argument("--prompts", type=int, default=200, help="graded prompts (default 200)")
    admit.add_argument(
        "--set", type=Path, help="your own prompts: JSON lines with prompt and answer, or prompt and regex"
    )
    admit.add_argument("--harmful", type=Path, help="prompts that must still be declined, one a line (default: 60)")
    admit.add_argument("--harmless", type=Path, help="prompts that must not be declined, one a line (default: 60)")
    admit.add_argument("--refusal-judge", help="a model that says whether an answer declines (default: patterns)")
    admit.add_argument("--seed", type=int, default=0, help="which prompts (default 0)")
    admit.set_defaults(run=_admit)


@contextmanager
def _plainly() -> Iterator[None]:
    """What the store or the engine refuses, as one line. Raises: PointsmanError."""
    from backends.anyprec.errors import AnyprecError  # noqa: PLC0415  (each verb imports what it needs)

    try:
        yield
    except AnyprecError as error:
        raise PointsmanError(str(error)) from None


def _quantize(arguments: argparse.Namespace) -> int:
    with _plainly():
        from backends.anyprec.quantize import run  # noqa: PLC0415

        run(
            arguments.checkpoint,
            out=arguments.out,
            bits=arguments.bits,
            rows_per_table=arguments.rows_per_table,
            sensitivity=arguments.sensitivity,
            calibration=arguments.calibration,
        )
    return 0


def _profile(arguments: argparse.Namespace) -> int:
    with _plainly():
        from backends.anyprec.profiling import run  # noqa: PLC0415

        run(arguments.store, bits=arguments.bits, calibration=arguments.calibration)
    return 0


def _compensate(arguments: argparse.Namespace) -> int:
    with _plainly():
        from backends.anyprec.compensate import run  # noqa: PLC0415

        run(
            arguments.store,
            checkpoint=arguments.checkpoint,
            text=arguments.text,
            bits=arguments.bits,
            rank=arguments.rank,
            name=arguments.name,
            most_bytes=arguments.bytes,
        )
    return 0


def _engine(arguments: argparse.Namespace) -> int:
    from backends.anyprec.server import serve  # noqa: PLC0415

    with _plainly():
        serve(arguments.store, host=arguments.host, port=arguments.port)
    return 0


def _admit(arguments: argparse.Namespace) -> int:
    from rich.console import Console  # noqa: PLC0415

    from evaluation.admit import examine  # noqa: PLC0415
    from evaluation.refusals import safety_prompts  # noqa: PLC0415
    from router.settings import load  # noqa: PLC0415

    console = Console()
    verdict = asyncio.run(
        examine(
            load(arguments.config),
            arguments.model,
            parent=arguments.parent,
            prompts=arguments.prompts,
            own=arguments.set,
            safety=safety_prompts(arguments.harmful, arguments.harmless),
            refusal_judge=arguments.refusal_judge,
            seed=arguments.seed,
            console=console,
        )
    )
    return 0 if verdict.admitted else 1
