"""The embedder is fitted from the log: all gateways arrive at one space, what is damaged is fetched or fitted again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from backends.embedders.hashing import HashingEmbedder
from policies import registry as named
from policies.records import to_half
from policies.types import Arm
from router.learning import follower, spaces
from router.learning.follower import Learning
from router.learning.index import FaissIndex
from router.learning.refit_worker import State
from router.learning.spaces import COUNTS, EMBEDDER, KNOWN, Spaces, secret_of
from router.learning.views import Views
from router.stores.open import Stores
from router.types import Feedback
from tests.http.conftest import until
from tests.policies.worlds import make_record
from tests.router.conftest import Workshop
from tests.stores.conftest import Clock, replicas

pytestmark = pytest.mark.anyio
DIM, FIRST = 16, 8
ARMS = (Arm("small", 1e-7, 1e-7), Arm("large", 1e-6, 1e-6))
TEXTS = [
    f"How many {thing} are there in {place}?"
    for thing in ("cats", "rivers")
    for place in ["Rome", "Oslo", "Bonn", "Lima"]
]


@pytest.fixture(autouse=True)
def small_and_near(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fits of a few texts, in this process, and no long waits."""

    async def fit_here(dim: int, counts: Sequence[bytes]) -> State:
        embedder = HashingEmbedder(dim)
        await asyncio.to_thread(embedder.fit_counts, counts)
        return dict(embedder.state())

    monkeypatch.setattr(spaces, "fit_elsewhere", fit_here)
    monkeypatch.setattr(follower, "FIRST_FIT", FIRST)
    monkeypatch.setattr(follower, "LOOK_AGAIN_S", 0.05)


@dataclass
class Follower:
    """What of a gateway follows the log and decides."""

    stores: Stores
    learning: Learning

    @property
    def views(self) -> Views:
        return self.learning.views

    @property
    def spaces(self) -> Spaces:
        assert self.learning.spaces is not None
        return self.learning.spaces

    async def decide(self, name: str, text: str, *, tenant: str = "acme", space: str | None = None) -> None:
        """Decide, settle nothing, and be told that it was right."""
        embedder = self.spaces.embedder
        record = make_record(name, ARMS, vector=embedder.embed_one(text), text=text)
        record = replace(record, context=replace(record.context, tenant=tenant), text_id=embedder.note(tenant, text))
        await self.stores.log.remember(replace(record, space=self.views.space if space is None else space))
        await self.spaces.flush()
        await self.stores.log.judge(Feedback(name, 1, 1.0, tenant=tenant))

    def nearest(self, text: str) -> tuple[object, ...]:
        """The known text that is nearest, and how near it is."""
        hits = self.views.index.search(to_half(self.spaces.embedder.embed_one(text))[None, :], 1)
        return self.views.table.texts[hits.ids[0][0]], float(hits.similarity[0][0])


@asynccontextmanager
async def following(stores: Stores, folder: Path | None = None, *, fits: bool = True) -> AsyncIterator[Follower]:
    key = await secret_of(stores.archive)
    embedder = HashingEmbedder(DIM, key=key)
    views = Views(FaissIndex(DIM), {"neighbours": named.build("neighbours", ARMS, {})})
    at = None if folder is None else folder / "views"
    learning = Learning(stores.log, views, Workshop(lambda: ARMS), arms=lambda: ARMS, folder=at)
    known = Spaces(embedder, stores.archive, folder=None if folder is None else folder / "embedder", most=1_000)
    learning.spaces = known
    learning.load()
    await learning.adopt()
    if not fits:
        learning.spaces = None
    task = asyncio.ensure_future(learning.run())
    try:
        yield Follower(stores, learning)
    finally:
        while not task.done():  # a library's wait may swallow a cancellation
            task.cancel()
            await asyncio.wait([task], timeout=0.2)


async def fitted(*gateways: Follower) -> None:
    """Wait until all are of one space."""
    await until(
        lambda: len({each.views.space for each in gateways} | {""}) == 2 and all(g.views.space for g in gateways)
    )


async def test_two_gateways_arrive_at_the_same_space_and_the_old_decisions_with_them(url: str, clock: Clock) -> None:
    async with replicas(url, clock) as (one, two), following(one) as here, following(two) as there:
        for i, text in enumerate(TEXTS):
            await (here, there)[i % 2].decide(f"d{i}", text)
        await fitted(here, there)
        published = [each.owner async for each in one.archive.each(KNOWN)]
        assert published == [here.views.space]
        for gateway in (here, there):
            await until(lambda gateway=gateway: len(gateway.views.table) == len(TEXTS))
            for text in TEXTS:
                assert gateway.nearest(text) == (text, pytest.approx(1.0, abs=2e-3))
        np.testing.assert_array_equal(here.views.table.embeddings, there.views.table.embeddings)


async def test_a_decision_made_in_the_space_before_is_placed_in_the_new_one(url: str, clock: Clock) -> None:
    async with replicas(url, clock) as (one, two), following(one) as here, following(two) as late:
        for i, text in enumerate(TEXTS):
            await here.decide(f"d{i}", text)
        await fitted(here, late)
        late.spaces.embedder.restore({})  # as if it were still on its way
        await late.decide("late", "Which rivers are there in Rome?", space="")
        await until(lambda: len(here.views.table) == len(TEXTS) + 1)
        assert here.nearest("Which rivers are there in Rome?") == (
            "Which rivers are there in Rome?",
            pytest.approx(1, abs=2e-3),
        )


async def test_a_restart_finds_its_space_again(url: str, clock: Clock, tmp_path: Path) -> None:
    async with replicas(url, clock, 1) as (stores,):
        async with following(stores, tmp_path) as gateway:
            for i, text in enumerate(TEXTS):
                await gateway.decide(f"d{i}", text)
            await fitted(gateway)
            await gateway.learning.snapshot()
            before, vector = gateway.views.space, gateway.spaces.embedder.embed_one(TEXTS[0])
        async with following(stores, tmp_path) as gateway:
            assert gateway.views.space == gateway.spaces.embedder.space == before
            np.testing.assert_array_equal(vector, gateway.spaces.embedder.embed_one(TEXTS[0]))
            assert gateway.nearest(TEXTS[0])[0] == TEXTS[0]


@pytest.mark.parametrize("in_archive", [False, True])
async def test_a_damaged_space_costs_a_fit_and_never_the_start(
    url: str, clock: Clock, tmp_path: Path, in_archive: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spaces, "CLAIMED_S", 0.0)
    async with replicas(url, clock, 1) as (stores,):
        async with following(stores, tmp_path) as gateway:
            for i, text in enumerate(TEXTS):
                await gateway.decide(f"d{i}", text)
            await fitted(gateway)
            await gateway.learning.snapshot()
            space = gateway.views.space
        for file in (tmp_path / "embedder" / space).iterdir():
            data = bytearray(file.read_bytes())
            data[-1] ^= 1
            file.write_bytes(data)
        if in_archive:
            await stores.archive.drop(EMBEDDER, space)
            await stores.archive.put(EMBEDDER, space, {"000000000000": b"garbage"})
        async with following(stores, tmp_path) as gateway:
            await fitted(gateway)
            assert gateway.nearest(TEXTS[3]) == (TEXTS[3], pytest.approx(1.0, abs=2e-3))


async def test_what_is_kept_of_a_tenant_goes_with_it(url: str, clock: Clock) -> None:
    async with replicas(url, clock, 1) as (stores,), following(stores) as gateway:
        for i, text in enumerate(TEXTS):
            await gateway.decide(f"d{i}", text, tenant=("acme", "gone")[i % 2])
        await fitted(gateway)
        assert await gateway.spaces.forget_tenant("gone") == len(TEXTS) // 2
        assert {each.owner async for each in stores.archive.each(COUNTS)} == {"acme"}
        first = gateway.views.space
        for i in range(len(TEXTS)):
            await gateway.decide(f"e{i}", f"What colour is the flag number {i * i}?")
        await until(lambda: gateway.views.space != first)
        reported = zip(gateway.views.table.tenants, range(2), strict=True)
        places = dict(reported)
        lengths = np.linalg.norm(gateway.views.table.embeddings.astype(np.float32), axis=1)
        owners = gateway.views.table.owners(slice(None))
        assert not lengths[owners == places["gone"]].any()
        assert lengths[owners == places["acme"]][: len(TEXTS) // 2].min() > 0.99


async def test_a_gateway_that_keeps_no_features_stays_as_it_is(url: str, clock: Clock) -> None:
    async with replicas(url, clock) as (one, two), following(one) as here, following(two, fits=False) as plain:
        for i, text in enumerate(TEXTS):
            await here.decide(f"d{i}", text)
        await fitted(here)
        await here.decide("new", "What is new?")
        await until(lambda: len(plain.views.table) == len(TEXTS) + 1)
        assert plain.views.space == ""
        lengths = np.linalg.norm(plain.views.table.embeddings.astype(np.float32), axis=1)
        assert (lengths[: len(TEXTS)].min() > 0.99, lengths[-1]) == (True, 0.0)


async def test_no_word_of_a_text_can_be_read_from_what_is_kept(url: str, clock: Clock) -> None:
    async with replicas(url, clock) as (one, two):
        mine, yours = await secret_of(one.archive), await secret_of(two.archive)
        assert mine == yours
        async with following(one) as gateway:
            await gateway.decide("d", TEXTS[0])
        kept = [each async for each in one.archive.each(COUNTS)]
        assert [each.owner for each in kept] == ["acme"]
        assert kept[0].body != HashingEmbedder(DIM).counts(TEXTS[0])
        assert kept[0].name != HashingEmbedder(DIM).id_of(TEXTS[0]).hex()
