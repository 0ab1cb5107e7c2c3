"""Kinds of values in a settings file, each with its own grammar and bounds."""

from __future__ import annotations

import ipaddress
from datetime import date
from functools import lru_cache
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_core import SchemaError, SchemaValidator, core_schema

from backends.anyprec.names import width_of
from router import amounts
from router.types import NANO_PER_USD

URL = r"^https?://[^\s]+$"
Positive = Annotated[int, Field(gt=0)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Bytes = Annotated[int, BeforeValidator(amounts.size)]
Count = Annotated[float, BeforeValidator(amounts.count)]
Dollars = Annotated[float, BeforeValidator(lambda value: amounts.usd(value) / NANO_PER_USD), Field(gt=0)]
Capability = Literal["chat", "completions", "embeddings", "responses", "messages", "tools", "vision", "logprobs"]


def _width(value: object) -> float:
    """Raises: ValueError for what is no width of at most 32 bits."""
    width = width_of(value)
    if width is None or width > MOST_BITS:
        raise ValueError(f"expected a width such as 3 or 3.25, at most {MOST_BITS}")
    return width


def _month(value: object) -> object:
    """A date of YAML as text."""
    return value.isoformat() if isinstance(value, date) else value


Month = Annotated[str, BeforeValidator(_month), Field(pattern=r"^20\d\d-(0[1-9]|1[0-2])(-\d\d)?$")]
MOST_BITS = 32
Width = Annotated[int | float, BeforeValidator(_width)]


def _addressed(url: str) -> str:
    """Raises: ValueError where an address has no host or no possible port."""
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  (reading it checks it)
    except ValueError:
        raise ValueError("expected an address with a host, such as http://127.0.0.1:8000") from None
    return url


Url = Annotated[str, Field(pattern=URL), AfterValidator(_addressed)]


@lru_cache(maxsize=1024)
def expression(pattern: str) -> SchemaValidator:
    """Of Rust's regex, which takes time that grows with the text alone. Raises: ValueError for what is none."""
    try:
        return SchemaValidator(core_schema.str_schema(pattern=pattern, regex_engine="rust-regex"))
    except SchemaError as error:
        raise ValueError(f"{pattern!r} is not a regular expression: {error}") from error


def _is_expression(pattern: str) -> str:
    expression(pattern)
    return pattern


Pattern = Annotated[str, AfterValidator(_is_expression)]


def _optional_secret(value: object) -> object:
    return None if value == "" else value  # ${KEY:-} is how a file says "maybe"


Secret = Annotated[SecretStr | None, BeforeValidator(_optional_secret)]


def is_private(url: str) -> bool:
    """Whether an address can only be inside: loopback, a private range, or a name without a public domain."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return "." not in host or host.endswith((".local", ".internal", ".svc", ".localhost"))


def is_true(value: object) -> bool:
    """A switch that may be quoted."""
    return value.strip().lower() in ("true", "1", "yes") if isinstance(value, str) else bool(value)
