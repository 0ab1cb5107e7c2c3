"""What embedders promise: unit rows, one request for many texts, and a memory with a bound."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from backends.embedders.cache import CachedEmbedder
from backends.embedders.openai import OpenAIEmbedder
from backends.embedders.sentence import SentenceEmbedder
from backends.embedders.static import StaticEmbedder
from backends.embedders.unit import unit_rows
from backends.errors import BackendError, Failed
from backends.openai import OpenAIBackend
from backends.scripted import Line, always
from backends.types import Limits
from benchmarks.scripted_server import ScriptedServer

pytestmark = pytest.mark.anyio


class Counting:
    """An embedder that writes down what it was asked."""

    dim, is_local = 3, True

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(m, 3): the text's length tells it apart."""
        self.asked.append(list(texts))
        return unit_rows([[1.0, float(len(text)), 0.0] for text in texts])


async def test_a_text_seen_again_is_not_embedded_again() -> None:
    inner = Counting()
    embedder = CachedEmbedder(inner)
    first = await embedder.embed(["one", "three", "one"])
    again = await embedder.embed(["three", "one", "seven"])
    assert inner.asked == [["one", "three"], ["seven"]]
    assert np.array_equal(first[[1, 0]], again[:2])
    assert np.array_equal(first[0], first[2])


async def test_the_fast_path_knows_what_was_embedded_and_nothing_else() -> None:
    embedder = CachedEmbedder(Counting())
    assert embedder.cached("one") is None
    (row,) = await embedder.embed(["one"])
    found = embedder.cached("one")
    assert found is not None
    assert np.array_equal(found, row)
    assert not found.flags.writeable


async def test_the_memory_is_bounded_and_keeps_what_was_used_last() -> None:
    embedder = CachedEmbedder(Counting(), most=3)
    for text in ("a", "bb", "ccc"):
        await embedder.embed([text])
    assert embedder.cached("a") is not None
    await embedder.embed(["dddd"])
    assert len(embedder) == 3
    assert embedder.cached("bb") is None
    assert embedder.cached("a") is not None


async def test_clearing_forgets_also_what_is_under_way() -> None:
    gate = asyncio.Event()

    class Slow(Counting):
        async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
            await gate.wait()
            return await super().embed(texts)

    embedder = CachedEmbedder(Slow())
    embedding = asyncio.create_task(embedder.embed(["one"]))
    await asyncio.sleep(0)
    embedder.clear()
    gate.set()
    await embedding
    assert embedder.cached("one") is None


async def test_no_texts_give_no_rows() -> None:
    assert (await CachedEmbedder(Counting()).embed([])).shape == (0, 3)


def test_unit_rows_have_length_one_and_a_zero_row_stays_zero() -> None:
    rows = unit_rows([[3.0, 4.0], [0.0, 0.0]])
    assert np.allclose(rows, [[0.6, 0.8], [0.0, 0.0]])
    assert rows.dtype == np.float32


def engine(server: ScriptedServer, **options: Any) -> OpenAIBackend:
    return OpenAIBackend(server.url, name="embedder e5", **options)


async def test_texts_that_come_together_travel_together() -> None:
    async with ScriptedServer(always(Line())) as server:
        embedder = OpenAIEmbedder(engine(server, api_key="sk-e"), model="e5", dim=3, window_s=0.05)
        rows = await asyncio.gather(*(embedder.embed(["x" * number]) for number in range(1, 11)))
        await embedder.aclose()
        assert [len(heard.json()["input"]) for heard in server.heard] == [10]
        assert server.heard[0].headers["authorization"] == "Bearer sk-e"
        assert server.heard[0].json()["model"] == "e5"
    for number, row in enumerate(rows, start=1):
        assert np.allclose(row, unit_rows([[1.0, number, 0.0]]))


async def test_no_request_carries_more_texts_than_a_batch() -> None:
    async with ScriptedServer(always(Line())) as server:
        embedder = OpenAIEmbedder(engine(server), model="e5", dim=3, batch=4)
        assert (await embedder.embed(["text"] * 10)).shape == (10, 3)
        await embedder.aclose()
        assert sorted(len(heard.json()["input"]) for heard in server.heard) == [2, 4, 4]


@pytest.mark.parametrize("trouble", ["500", "reset", "html", "hang"])
async def test_all_who_wait_for_a_batch_get_its_error(trouble: str) -> None:
    async with ScriptedServer(always(Line(trouble=trouble))) as server:  # type: ignore[arg-type]
        embedder = OpenAIEmbedder(engine(server, limits=Limits(first_byte_s=0.1)), model="e5", dim=3)
        results = await asyncio.gather(*(embedder.embed(["text"]) for _ in range(3)), return_exceptions=True)
        await embedder.aclose()
    assert all(isinstance(result, BackendError) for result in results)


async def test_one_who_leaves_does_not_take_the_others_along() -> None:
    async with ScriptedServer(always(Line())) as server:
        embedder = OpenAIEmbedder(engine(server), model="e5", dim=3, window_s=0.02)
        leaving, staying = (asyncio.create_task(embedder.embed([text])) for text in ("one", "three"))
        await asyncio.sleep(0)
        leaving.cancel()
        assert np.allclose(await staying, unit_rows([[1.0, 5.0, 0.0]]))
        await embedder.aclose()


async def test_vectors_of_another_dimension_are_an_error() -> None:
    async with ScriptedServer(always(Line())) as server:
        embedder = OpenAIEmbedder(engine(server), model="e5", dim=384)
        with pytest.raises(Failed, match="384"):
            await embedder.embed(["text"])
        await embedder.aclose()


@pytest.mark.filterwarnings("ignore:builtin type .* has no __module__:DeprecationWarning")  # tokenizers' own
async def test_a_static_model_averages_its_tokens_vectors(tmp_path: Path) -> None:
    model2vec = pytest.importorskip("model2vec")
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    words = Tokenizer(WordLevel({"[UNK]": 0, "up": 1, "right": 2}, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    vectors = np.array([[0.0, 0.0], [0.0, 2.0], [2.0, 0.0]], dtype=np.float32)
    model2vec.StaticModel(vectors, words).save_pretrained(tmp_path)
    embedder = StaticEmbedder(str(tmp_path))
    assert embedder.dim == 2
    assert np.allclose(await embedder.embed(["up", "right up"]), unit_rows([[0, 1], [1, 1]]))


@pytest.mark.parametrize(
    ("module", "extra", "make"),
    [
        ("model2vec", "static", lambda: StaticEmbedder("nowhere")),
        ("fastembed", "sentence", SentenceEmbedder),
    ],
)
def test_a_missing_extra_is_named(module: str, extra: str, make: object) -> None:
    if importlib.util.find_spec(module) is not None:
        pytest.skip(f"{module} is installed here")
    assert callable(make)
    with pytest.raises(ImportError, match=f"the extra `{extra}`"):
        make()
