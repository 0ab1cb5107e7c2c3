"""What the page may know before a key is typed in: nothing that is not public of every gateway of this version."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from router.catalogue.factories import family
from router.http.page.files import HEADERS, check
from router.settings import Settings
from router.settings.engine_sections import EmbeddedSection


def routes(settings: Callable[[], Settings], *, version: str) -> APIRouter:
    """The router. `settings` are those of now."""
    router = APIRouter(include_in_schema=False)

    @router.get("/page/about")
    async def about(request: Request) -> Response:
        """The version, whether a key is needed, and the names of the packaged models where they are served."""
        now = settings()
        check(now.page, request)
        found = {"version": version, "needs_key": now.auth.required, "packaged": packaged(now)}
        return JSONResponse(found, headers=dict(HEADERS))

    return router


def packaged(settings: Settings) -> list[str]:
    """Names of the packaged models, where an embedded engine serves them."""
    sections = settings.backends.values()
    is_served = any(isinstance(each, EmbeddedSection) and not each.stores for each in sections)
    return [each.name for each in family()] if is_served else []
