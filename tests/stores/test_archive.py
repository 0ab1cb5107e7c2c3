"""What learning keeps for all gateways, over every store."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from router.stores.open import Stores, open_stores
from tests.stores.conftest import Clock, replicas

pytestmark = pytest.mark.anyio


async def kept(stores: Stores, room: str, owner: str = "", *names: str) -> list[tuple[str, str, bytes]]:
    return [(each.owner, each.name, each.body) async for each in stores.archive.each(room, owner, names)]


async def test_what_is_put_is_found_by_its_room_owner_and_name(stores: Stores, clock: Clock) -> None:
    assert await stores.archive.put("counts", "acme", {"a": b"1", "b": b"\x00\xff"}) == 2
    clock.now_ms += 1
    assert await stores.archive.put("counts", "other", {"a": b"3"}) == 1
    assert await stores.archive.put("rows", "acme", {"a": b"4"}) == 1
    assert await kept(stores, "counts") == [("acme", "a", b"1"), ("acme", "b", b"\x00\xff"), ("other", "a", b"3")]
    assert await kept(stores, "counts", "other") == [("other", "a", b"3")]
    assert await kept(stores, "counts", "acme", "b", "c") == [("acme", "b", b"\x00\xff")]
    assert await kept(stores, "none") == []


async def test_what_is_kept_is_not_overwritten(stores: Stores) -> None:
    assert await stores.archive.put("rows", "t", {"a": b"first"}) == 1
    assert await stores.archive.put("rows", "t", {"a": b"second", "b": b"x"}) == 1
    assert await kept(stores, "rows", "t", "a") == [("t", "a", b"first")]


async def test_of_two_gateways_that_claim_a_name_one_gets_it(url: str, clock: Clock) -> None:
    async with replicas(url, clock) as (here, there):
        assert [await each.archive.put("claims", "x", {"": b""}) for each in (here, there)] == [1, 0]


async def test_what_is_dropped_is_gone_and_nobody_elses(stores: Stores) -> None:
    await stores.archive.put("counts", "acme", {f"n{i}": b"x" for i in range(450)})
    await stores.archive.put("counts", "other", {"n1": b"y"})
    assert await stores.archive.drop("counts", "acme") == 450
    assert await stores.archive.drop("counts", "acme") == 0
    assert await kept(stores, "counts") == [("other", "n1", b"y")]
    assert await stores.archive.put("counts", "acme", {"n1": b"again"}) == 1


async def test_many_are_listed_once_each_and_oldest_first(stores: Stores, clock: Clock) -> None:
    for i in range(5):
        clock.now_ms += 1
        await stores.archive.put("rows", "t", {f"{i:02}-{j:03}": b"" for j in range(130)})
    names = [name for _, name, _ in await kept(stores, "rows", "t")]
    assert names == sorted(names)
    assert len(names) == 650


async def test_a_room_keeps_its_newest(stores: Stores, clock: Clock) -> None:
    for i in range(30):
        clock.now_ms += 1
        await stores.archive.put("counts", f"t{i % 3}", {f"{i:02}": b""}, most=10)
    assert sorted(name for _, name, _ in await kept(stores, "counts")) == [f"{i}" for i in range(20, 30)]


async def test_a_file_from_before_the_archive_gets_one(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/old.db"
    async with open_stores(url, clock=Clock()):
        pass
    with sqlite3.connect(tmp_path / "old.db") as old:
        old.execute("DROP TABLE archive")
    async with open_stores(url, clock=Clock()) as stores:
        assert await stores.archive.put("rows", "t", {"a": b""}) == 1
