"""Programs over the scripted engines of tests.router."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from backends.scripted import Line
from router.gateway.types import Catalogue
from router.programs.factory import program_models
from router.settings.program_sections import ProgramSection
from router.types import Budget, Model, NanoUsd, Principal
from tests.router.conftest import House, open_house

ALIASES = {"cheap": 0.0, "balanced": 0.5, "best": 1.0}
DAY = Budget("tenant:acme", NanoUsd(10**12), 86_400)
SECTIONS = TypeAdapter(dict[str, ProgramSection])


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def with_programs(house: House, programs: Mapping[str, Any]) -> None:
    """Let the gateway offer these programs beside its models."""
    decider = house.gateway.decider
    models = tuple(model for model in decider.catalogue.models if model.program is None)
    made = program_models(SECTIONS.validate_python(programs), models, ALIASES, is_whole=True)
    decider.catalogue = Catalogue(models + made, decider.catalogue.backends)


@asynccontextmanager
async def programs_in(
    folder: Path, programs: Mapping[str, Any], *, lines: dict[str, Line] | None = None, **models: Model
) -> AsyncIterator[House]:
    """A house whose gateway offers programs, and whose principal has a hard budget."""
    async with open_house(folder, lines=lines, **models) as house:  # type: ignore[arg-type]  # all others have defaults
        with_programs(house, programs)
        house.principal = Principal("k_1", "acme", budgets=(DAY,))
        yield house
