"""The verbs that make and serve models: quantize, compensate, engine."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

Verbs = Any  # argparse gives its subparsers no public type


def add_verbs(verbs: Verbs) -> None:
    """Add quantize, compensate and engine."""
    quantize = verbs.add_parser("quantize", help="pack a checkpoint into one store of every width")
    quantize.add_argument("checkpoint", type=Path, help="a Llama, Qwen2 or Mistral folder in Hugging Face's format")
    quantize.add_argument("--bits", default="3-8", help="widths, as 3-8 or 3,4,6 (default 3-8)")
    quantize.add_argument("--out", type=Path, required=True, help="the folder to write")
    quantize.add_argument("--rows-per-table", type=int, default=1, help="rows that share a table (default 1)")
    quantize.add_argument("--calibration", type=Path, help="text, one sample a line, for the diagonal Fisher")
    quantize.add_argument("--sensitivity", type=Path, help="a safetensors file of sensitivities instead")
    quantize.set_defaults(run=_quantize)
    compensate = verbs.add_parser("compensate", help="write a LoRA adapter that wins back what a width lost")
    compensate.add_argument("checkpoint", type=Path, help="the full-precision folder")
    compensate.add_argument("store", type=Path, help="the folder quantize wrote")
    compensate.add_argument("--bits", type=int, required=True, help="the width to compensate")
    compensate.add_argument("--rank", type=int, default=16, help="rank of the adapter (default 16)")
    compensate.add_argument("--calibration", type=Path, required=True, help="text, one sample a line")
    compensate.add_argument("--out", type=Path, required=True, help="the folder to write")
    compensate.set_defaults(run=_compensate)
    engine = verbs.add_parser("engine", help="serve stores alone, as an OpenAI-compatible server")
    engine.add_argument("store", type=Path, nargs="+", help="folders quantize wrote")
    engine.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    engine.add_argument("--port", type=int, default=8100, help="port to listen on (default 8100)")
    engine.set_defaults(run=_engine)
