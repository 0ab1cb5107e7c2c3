"""The environment inside a settings file."""

from __future__ import annotations

import pytest

from router.settings.source import substitute
from tests.settings.conftest import Read


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("${NAME}", "value"),
        ("a ${NAME} b ${NAME}", "a value b value"),
        ("${OTHER:-default}", "default"),
        ("${EMPTY:-default}", "default"),
        ("${EMPTY}", ""),
        ("${OTHER:-}", ""),
        ("$${NAME}", "${NAME}"),
        ("$NAME", "$NAME"),
    ],
)
def test_variables_are_put_in_as_a_shell_would(text: str, expected: str) -> None:
    assert substitute({"key": text}, {"NAME": "value", "EMPTY": ""})[0] == {"key": expected}


def test_a_variable_may_give_a_number_or_a_truth(read: Read) -> None:
    settings = read(
        "server: {port: '${PORT}'}\nlog: {keep_text: '${KEEP}'}",
        env={"PORT": "9000", "KEEP": "true"},
    )
    assert settings.server.port == 9000
    assert settings.log.keep_text
