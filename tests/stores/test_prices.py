"""Prices of models that the admin API keeps, in both stores."""

from __future__ import annotations

import pytest

from router.catalogue.price_overrides import PriceOverrides
from router.settings.price_sections import PriceSection
from router.stores.open import Stores

pytestmark = pytest.mark.anyio


async def test_what_is_kept_and_is_no_price_is_skipped_and_said(
    stores: Stores, caplog: pytest.LogCaptureFixture
) -> None:
    overrides = PriceOverrides(stores.records)
    for name, body in {"torn": b'{"prompt": -1', "good": b'{"prompt": "1", "completion": "2"}', "gone": b""}.items():
        await stores.records.put("price", name, body)
    await overrides.refresh()
    assert list(overrides.sections) == ["good"]
    assert "'torn' cannot be read" in caplog.text


async def test_another_gateway_reads_what_one_has_put_and_dropped(stores: Stores) -> None:
    one, other = PriceOverrides(stores.records), PriceOverrides(stores.records)
    section = PriceSection.model_validate({"prompt": "0.15", "completion": 2, "cached": "0.000000001"})
    await one.put("a/b@3bit", section)
    await other.refresh()
    assert other.sections == {"a/b@3bit": section}
    await other.put("a/b@3bit", None)
    await one.refresh()
    assert one.sections == {}
