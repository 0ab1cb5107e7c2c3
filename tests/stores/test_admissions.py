"""A verdict on a variant holds for every gateway of one store, wherever it was reached."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from router.catalogue.admission import KIND, AdmissionLimits, Admissions, Samples, judge
from router.stores.open import Stores

pytestmark = pytest.mark.anyio
SAME = Samples(np.ones((40, 2)), np.ones((40, 2)), np.zeros((0, 2)), np.zeros((0, 2)))
YES = judge("m@3bit", "m", SAME, AdmissionLimits(max_refusal_fall=0.05))
NO = replace(YES, reasons=("is slow",))


async def test_what_one_gateway_admits_is_admitted_by_all_and_what_it_refuses_is_refused(
    stores: Stores, tmp_path: Path
) -> None:
    here, there = (Admissions(tmp_path / place, stores.records) for place in ("here", "there"))
    await there.refresh()
    assert not there.admits("m@3bit")
    await here.keep(YES)
    assert here.admits("m@3bit")
    await there.refresh()
    assert there.admits("m@3bit")
    await there.keep(NO)
    await here.refresh()
    assert not here.admits("m@3bit")  # its own file says otherwise, and is older


async def test_a_verdict_that_cannot_be_read_admits_nothing(stores: Stores, tmp_path: Path) -> None:
    for name, body in {
        "a": b"",
        "b": b"[]",
        "c": b"\xff",
        "d": b'{"admitted": 1}',
        "e": b'{"admitted": "yes"}',
    }.items():
        await stores.records.put(KIND, name, body)
    known = Admissions(tmp_path, stores.records)
    await known.refresh()
    assert [name for name in "abcde" if known.admits(name)] == []


async def test_files_of_before_count_where_the_store_has_no_verdict(stores: Stores, tmp_path: Path) -> None:
    await Admissions(tmp_path).keep(YES)
    known = Admissions(tmp_path, stores.records)
    await known.refresh()
    assert known.admits("m@3bit")
