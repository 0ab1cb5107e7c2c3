"""The section of the page at `/`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from router.terms import Section


class PageSection(Section):
    """The page at `/`. It holds no secret: whatever it shows is asked for with the key that is typed into it."""

    open_to: Literal["loopback", "nobody", "everyone"] = Field(
        default="loopback",
        description="Who gets the page: requests from this machine that no proxy passed on, nobody, or everyone.",
    )
