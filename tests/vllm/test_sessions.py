"""Agents' sessions of twenty turns on two real engines: what their caches have decides who answers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.sessions import Engines, SessionsBill, measure
from tests.vllm.engines import STORES, VENV, Engine

LONG = ("--max-model-len", "8192", "--hf-overrides", '{"max_position_embeddings": 8192}', "--block-size", "32")
REPORTS = ("--dtype", "float32", "--enable-prompt-tokens-details")


@pytest.fixture(scope="module")
def bills(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, SessionsBill]]:
    if not (VENV / ".complete").exists():
        pytest.fail("run tests/vllm/install.sh first, or `make test-vllm`")
    folder = tmp_path_factory.mktemp("sessions")
    stores = {"small": STORES / "small", "large": STORES / "medium"}
    engines = {name: Engine(name, store, folder / f"{name}.log", (*LONG, *REPORTS)) for name, store in stores.items()}
    for engine in engines.values():
        engine.start()
    try:
        for engine in engines.values():
            engine.wait()
        urls = {name: engine.url for name, engine in engines.items()}
        yield measure(folder, Engines(urls), sessions=4, turns=20)
    finally:
        for engine in engines.values():
            engine.kill()


def test_sessions_keep_what_their_engines_have_cached(bills: dict[str, SessionsBill]) -> None:
    """By vLLM's own counters, nine tenths of what they would keep with one model alone, which is most of all."""
    assert bills["large"].share > 0.85
    assert bills["with the cache"].share >= 0.9 * bills["large"].share


def test_they_cost_less_than_the_best_model_alone_and_than_a_choice_at_each_turn(
    bills: dict[str, SessionsBill],
) -> None:
    knows, best, anew = (bills[name] for name in ("with the cache", "large", "each turn anew"))
    assert knows.quality >= best.quality - 0.02
    assert knows.usd < min(best.usd, anew.usd)


def test_a_session_moves_where_that_pays(bills: dict[str, SessionsBill]) -> None:
    """It begins where it is cheap, and goes where it is answered well."""
    assert bills["with the cache"].switches >= 1
