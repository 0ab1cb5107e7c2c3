"""Nothing that lies beside the ledger stops a start: what cannot be read is put aside, named and made anew."""

from __future__ import annotations

import json
import logging
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from router.learning import snapshot
from router.learning.index import FaissIndex
from router.learning.snapshot import Position
from router.learning.views import Views
from router.types import Feedback
from tests.router.conftest import House, now_ms, open_house
from tests.router.test_learning import asked, judged

pytestmark = pytest.mark.anyio

Damage = Callable[[Path], object]


def cut(path: Path, share: float = 0.5) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def flip(path: Path) -> None:
    """One bit, past the middle."""
    body = bytearray(path.read_bytes())
    body[len(body) * 2 // 3] ^= 1
    path.write_bytes(body)


def made_of(path: Path, body: bytes) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    path.write_bytes(body)


def other_rows(folder: Path) -> None:
    np.save(folder / "ids.npy", np.array([7_000_000]))


def a_bomb(folder: Path) -> None:
    (folder / "position.json").write_text("[" * 100_000)


def pickled(folder: Path) -> None:
    np.save(folder / "ids.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)


def lying_sums(folder: Path) -> None:
    """What an attacker or a tool might write: sums that fit files that do not."""
    np.save(folder / "ids.npy", np.array([[1.5, 2.5]]))
    (folder / "texts.jsonl").write_text('{"not": "a list"}\n')
    at = json.loads((folder / "position.json").read_text())
    at["sums"] = {each: snapshot._sum(folder / each) for each in at["sums"]}
    (folder / "position.json").write_text(json.dumps(at))


DAMAGES: dict[str, Damage] = {
    "a table cut short": lambda folder: cut(folder / "table.npz"),
    "an empty table": lambda folder: cut(folder / "table.npz", 0),
    "a bit of the table": lambda folder: flip(folder / "table.npz"),
    "a table that is a folder": lambda folder: ((folder / "table.npz").unlink(), (folder / "table.npz").mkdir()),
    "an index cut short": lambda folder: cut(folder / "index.faiss", 0.9),
    "an empty index": lambda folder: cut(folder / "index.faiss", 0),
    "a bit of the index": lambda folder: flip(folder / "index.faiss"),
    "an index that is text": lambda folder: (folder / "index.faiss").write_text("IxFI but not really"),
    "ids of other rows": other_rows,
    "pickled ids": pickled,
    "texts that are not UTF-8": lambda folder: (folder / "texts.jsonl").write_bytes(b'["\xff\xfe"]\n'),
    "no texts": lambda folder: (folder / "texts.jsonl").unlink(),
    "a position of brackets": a_bomb,
    "a position of another kind": lambda folder: (folder / "position.json").write_text('{"position": 7, "sums": []}'),
    "no position": lambda folder: (folder / "position.json").unlink(),
    "open decisions cut short": lambda folder: cut(folder / "open.msgpack", 0.7),
    "open decisions of gigabytes": lambda folder: (folder / "open.msgpack").write_bytes(b"\xff\xff\xff\x7f"),
    "sums that fit what is wrong": lying_sums,
    "a file instead of the folder": lambda folder: made_of(folder, b"nothing"),
    "an empty folder": lambda folder: (shutil.rmtree(folder), folder.mkdir()),
    "a link to nowhere": lambda folder: (shutil.rmtree(folder), folder.symlink_to("nowhere")),
}


async def saved(folder: Path) -> None:
    async with open_house(folder, policy="neighbours") as house:
        await judged(house, await asked(house, "one"))
        await house.until(lambda: house.learning.learned >= 1)
        await house.learning.snapshot()


async def started(house: House) -> None:
    """As a gateway starts: what the log says is known, whatever the snapshot holds."""
    house.learning.load()
    await house.learning.catch_up()


@pytest.mark.parametrize("how", DAMAGES)
async def test_a_damaged_snapshot_is_put_aside_named_and_made_anew(
    how: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await saved(tmp_path)
    DAMAGES[how](tmp_path / "views")
    async with open_house(tmp_path, policy="neighbours", follows=False) as house:
        await started(house)
        assert house.learning.views.table.texts == ["one"]
        assert len(house.learning.views.index) == 1
        answer, _ = await house.read("one")
        assert [each.text for each in await house.gateway.decider.nearest(answer.attempt.decision, "acme")] == ["one"]
        assert "is put aside as" in caplog.text
        assert (tmp_path / "views.damaged").exists() or (tmp_path / "views.damaged").is_symlink()
        await house.learning.snapshot()
        again = Views(FaissIndex(256), {})
        assert snapshot.load(again, tmp_path / "views") is not None
        assert again.table.texts == ["one"]


@pytest.mark.parametrize("damage", [cut, flip, Path.unlink])
async def test_a_damaged_state_of_a_policy_costs_its_refit_alone(damage: Damage, tmp_path: Path) -> None:
    await saved(tmp_path)
    damage(tmp_path / "views/policy-neighbours.npz")
    async with open_house(tmp_path, policy="neighbours", follows=False) as house:
        before = house.learning.policy("neighbours")
        assert house.learning.load()
        assert house.learning.views.table.texts == ["one"]
        assert house.learning.policy("neighbours") is not before
        await house.learning.refit()
        await house.read("one")


async def test_what_was_put_aside_before_makes_room(tmp_path: Path) -> None:
    for _ in range(3):
        await saved(tmp_path)
        cut(tmp_path / "views/index.faiss")
        async with open_house(tmp_path, policy="neighbours", follows=False) as house:
            await started(house)
    assert sorted(each.name for each in tmp_path.glob("views*")) == ["views.damaged", "views.lock"]


async def test_entries_of_the_log_that_are_no_entries_are_passed_over_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_house(tmp_path, policy="neighbours") as house:
        await judged(house, await asked(house, "one"))
    with sqlite3.connect(tmp_path / "pointsman.db") as db:
        bodies = [row[0] for row in db.execute("SELECT body FROM log WHERE kind = 'd'")]
        for kind, body in (
            ("d", b"\xc1"),
            ("?", b""),
            ("d", bodies[0][:100]),
            ("s", bodies[0]),
            ("f", b"\x90" * 9_999),
        ):
            row = (kind, "acme", "x", body)
            db.execute("INSERT INTO log (kind, tenant, decision_id, body) VALUES (?, ?, ?, ?)", row)
    db.close()
    caplog.set_level(logging.ERROR)
    async with open_house(tmp_path, policy="neighbours") as house:
        await judged(house, await asked(house, "two"))
        await house.until(lambda: house.learning.learned == 2)
        assert house.learning.views.table.texts == ["one", "two"]
    assert caplog.text.count("is passed over") >= 5


async def test_an_embedder_of_another_dimension_begins_anew(tmp_path: Path) -> None:
    await saved(tmp_path)
    async with open_house(tmp_path, policy="neighbours", follows=False, dim=64) as house:
        await started(house)
        assert len(house.learning.views.index) == 0
        decision_id = await asked(house, "two")
        await house.stores.log.judge(Feedback(decision_id, now_ms(), 1.0, tenant="acme"))
        await house.learning.catch_up()
        assert house.learning.views.table.texts == ["two"]
        await house.learning.snapshot()
        assert house.learning.load()


async def test_a_start_does_not_wait_for_a_long_log(tmp_path: Path) -> None:
    async with open_house(tmp_path, policy="neighbours") as house:
        for i in range(20):
            await judged(house, await asked(house, f"question {i}"))
    async with open_house(tmp_path, policy="neighbours", follows=False) as house:
        assert not await house.learning.catch_up(within_s=0.0)
        assert house.learning.learned < 20
        await house.read("answered meanwhile")
        assert await house.learning.catch_up()
        assert house.learning.learned == 20


def test_one_of_many_processes_writes_and_a_fresh_snapshot_is_not_written_again(tmp_path: Path) -> None:
    views, folder = Views(FaissIndex(16), {}), tmp_path / "views"
    with snapshot._alone(folder) as alone:
        assert alone
        assert not snapshot.save(views, Position("1"), folder)
    assert not folder.exists()
    assert snapshot.save(views, Position("2"), folder)
    assert not snapshot.save(views, Position("3"), folder, unless_newer_s=60.0)
    restored = snapshot.load(views, folder)
    assert restored is not None
    assert restored.at.position == "2"
    assert snapshot.save(views, Position("4"), folder)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["views", "views.lock"]


def test_a_disk_that_is_full_leaves_the_old_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    views, folder = Views(FaissIndex(16), {}), tmp_path / "views"
    assert snapshot.save(views, Position("1"), folder)

    def full(_: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(views.table, "save", full)
    with pytest.raises(OSError, match="No space"):
        snapshot.save(views, Position("2"), folder)
    monkeypatch.undo()
    restored = snapshot.load(views, folder)
    assert restored is not None
    assert restored.at.position == "1"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["views", "views.lock"]
