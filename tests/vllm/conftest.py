"""Two servers of different sizes, started once for the whole suite."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vllm.engines import STORES, VENV, Engine

LORA = ("--enable-lora", "--max-lora-rank", "8", "--max-loras", "2")
TOOLS = ("--enable-auto-tool-choice", "--tool-call-parser", "hermes")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.vllm)
            item.add_marker(pytest.mark.unpublished("vLLM writes nulls; what it says passes on"))


@pytest.fixture(scope="session")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Engine]]:
    """`small` computes in float32, for comparisons with numpy; `large` in bfloat16, with adapters."""
    if not (VENV / ".complete").exists():
        pytest.fail("run tests/vllm/install.sh first, or `make test-vllm`")
    folder = tmp_path_factory.mktemp("engines")
    small = Engine("small", STORES / "small", folder / "small.log", ("--dtype", "float32", *TOOLS))
    large = Engine("large", STORES / "large", folder / "large.log", ("--dtype", "bfloat16", *LORA))
    for engine in (small, large):
        engine.start()
    try:
        for engine in (small, large):
            engine.wait()
        yield {"small": small, "large": large}
    finally:
        for engine in (small, large):
            engine.kill()


@pytest.fixture
def small(engines: dict[str, Engine]) -> Engine:
    return engines["small"]


@pytest.fixture
def large(engines: dict[str, Engine]) -> Engine:
    return engines["large"]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
