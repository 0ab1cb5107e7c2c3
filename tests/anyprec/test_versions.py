"""The plugin serves with the releases it was tried with, and with no others."""

from __future__ import annotations

import pytest

from backends.anyprec.plugin.versions import SUPPORTED, UnsupportedVersion, require_supported


@pytest.mark.parametrize("version", ["0.26.0", "0.26.1rc1", "0.32.0", "0.32.0+cpu"])
def test_a_release_that_was_tried_is_accepted(version: str) -> None:
    require_supported(version)


@pytest.mark.parametrize("version", ["0.2.6", "0.27.0", "1.26.0", "0.320.1", "dev", ""])
def test_another_release_is_refused_with_its_number_and_those_that_serve(version: str) -> None:
    with pytest.raises(UnsupportedVersion, match=f"vLLM is {version};.*" + ".*".join(SUPPORTED)):
        require_supported(version)
