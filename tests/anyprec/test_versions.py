"""The plugin serves with the releases it was tried with, and with no others."""

from __future__ import annotations

import logging
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from packaging.requirements import Requirement

from backends.anyprec import plugin
from backends.anyprec.plugin.versions import SUPPORTED, UnsupportedVersion, require_supported


@pytest.mark.parametrize("version", ["0.26.0", "0.26.1rc1", "0.32.0", "0.32.0+cpu"])
def test_a_release_that_was_tried_is_accepted(version: str) -> None:
    require_supported(version)


@pytest.mark.parametrize("version", ["0.2.6", "0.27.0", "1.26.0", "0.320.1", "dev", ""])
def test_another_release_is_refused_with_its_number_and_those_that_serve(version: str) -> None:
    with pytest.raises(UnsupportedVersion, match=f"vLLM is {version};.*" + ".*".join(SUPPORTED)):
        require_supported(version)


def test_the_extra_names_the_releases_of_the_table_and_no_others() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    (extra,) = map(Requirement, project["optional-dependencies"]["vllm"])
    minors = [f"{major}.{minor}" for major in (0, 1) for minor in range(60)]
    assert [each for each in minors if extra.specifier.contains(f"{each}.1")] == list(SUPPORTED)


@pytest.mark.parametrize("version", ["0.27.0", "0.33.0"])
def test_registration_with_another_release_says_so_and_leaves_stores_unknown(
    version: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    registered: list[str] = []
    fakes: dict[str, Any] = {name: ModuleType(name) for name in ("vllm", *QUANTIZATION)}
    fakes["vllm"].__version__ = version
    fakes[QUANTIZATION[-1]].register_quantization_config = lambda name: registered.append(name) or (lambda made: made)
    for name, module in fakes.items():
        monkeypatch.setitem(sys.modules, name, module)
    with caplog.at_level(logging.ERROR):
        plugin.register()
    assert registered == []
    assert f"vLLM is {version}" in caplog.text


QUANTIZATION = (
    "vllm.model_executor", "vllm.model_executor.layers", "vllm.model_executor.layers.quantization",
)  # fmt: skip
