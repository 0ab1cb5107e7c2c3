"""Prices that the admin API gave to models, beside those of the settings file. They lie in the store for all gateways.

A store that is away changes nothing: the prices that were read last hold. What is kept and cannot be read is skipped,
and the log says so.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace

from pydantic import ValidationError

from router.errors import SettingsError, StoreUnavailable
from router.settings import Settings
from router.settings.price_sections import PriceSection
from router.stores.keys import Kind, RecordStore, all_of
from router.types import Model, Price

LOG = logging.getLogger("pointsman.prices")
KIND: Kind = "price"
_REMOVED = b""


class PriceOverrides:
    """By model name, as they were last read."""

    def __init__(self, records: RecordStore | None = None) -> None:
        self._records = records
        self.sections: Mapping[str, PriceSection] = {}

    async def refresh(self) -> None:
        """Read them again. Never raises."""
        try:
            self.sections = await self._read()
        except StoreUnavailable as error:
            LOG.warning("prices stay as they were last read: %s", error.message)

    async def put(self, model: str, section: PriceSection | None) -> None:
        """Keep this price of a model from now on; None: none of its own. Raises: StoreUnavailable."""
        if self._records is None:
            raise StoreUnavailable("there is no store to keep prices in")
        body = _REMOVED if section is None else section.model_dump_json(exclude_unset=True).encode()
        await self._records.put(KIND, model, body)
        self.sections = await self._read()

    def of(self, model: str) -> Price | None:
        """What a model costs today; None where nobody gave it a price."""
        section = self.sections.get(model)
        return None if section is None else section.price()

    def over(self, model: Model, settings: Settings) -> Model:
        """The model at its price here, unless the settings file prices it or its engines."""
        if model.replica_prices or priced_by_file(settings, model.name):
            return model
        price = self.of(model.name)
        return model if price is None else replace(model, price=price)

    def must_be_alone(self, settings: Settings, before: Settings) -> None:
        """Raises: SettingsError where the file begins to price a model that has a price here."""
        for name in self.sections:
            if priced_by_file(settings, name) and not priced_by_file(before, name):
                raise SettingsError(
                    f"models: the price of {name!r} was given by the admin API: DELETE /admin/v1/prices/{name} first"
                )

    async def _read(self) -> dict[str, PriceSection]:
        kept = {} if self._records is None else await all_of(self._records, KIND)
        return {name: section for name, body in kept.items() if (section := _section(name, body)) is not None}


def priced_by_file(settings: Settings, model: str) -> bool:
    """Whether an entry of the settings file says what the model costs."""
    return any(each.name == model and each.price is not None for each in settings.models)


def _section(name: str, body: bytes) -> PriceSection | None:
    if body == _REMOVED:
        return None
    try:
        return PriceSection.model_validate_json(body)
    except ValidationError as error:
        LOG.error("the price that the store has of %r cannot be read: %s", name[:100], str(error)[:300])
        return None
