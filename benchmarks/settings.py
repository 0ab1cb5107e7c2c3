"""The settings that load tests run: everything on, and a pass-through."""

from __future__ import annotations

from pathlib import Path

KEY = "sk-bench-0000000000000001"


def full_settings(mock: str, folder: Path, port: int) -> dict[str, object]:
    """Everything on: keys, budgets of tenant and key, rate limits, three candidates, neighbours, the log."""
    budget = "100000 USD per day"
    return {
        **_server(folder, port),
        "backends": {"mock": {"kind": "vllm", "url": mock, "discover": False}},
        "models": [_model("small", 0.05, 0.2), _model("medium", 0.2, 0.8), _model("large", 0.6, 2.4)],
        "policy": {"name": "neighbours", "options": {"neighbours": {"opening": 0}}},  # as where models are known
        "tenants": {"bench": {"budgets": [budget], "keys": [{"secret": KEY, "budgets": [budget]}]}},
    }


def pass_settings(mock: str, folder: Path, port: int) -> dict[str, object]:
    """A pass-through: one model, no keys, no budgets, nothing remembered."""
    return {
        **_server(folder, port),
        "auth": {"required": False},
        "backends": {"mock": {"kind": "vllm", "url": mock, "discover": False}},
        "models": [_model("mock", 0.0, 0.0)],
        "policy": {"name": "fixed", "options": {"fixed": {"arm": "mock"}}},
        "log": {"enabled": False},
    }


def _server(folder: Path, port: int) -> dict[str, object]:
    quiet = {"access_log": False}
    return {"server": {"port": port, "grace_s": 0}, "telemetry": quiet, "state_dir": str(folder / "state")}


def _model(name: str, prompt: float, completion: float) -> dict[str, object]:
    price = {"prompt": prompt, "completion": completion}
    return {"name": name, "backend": "mock", "upstream": "mock", "price": price, "max_output_tokens": 512}
