"""The page's own files, as they lie in the package: no file of another origin, no build step, nothing written.

A file that is not there is a 404. What a browser may do with the page is said in its headers, and it is little.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.resources import files

from fastapi import APIRouter, Request, Response

from router.errors import Forbidden, NotFound
from router.http.operations import is_loopback
from router.settings.page_section import PageSection

INDEX = "index.html"
SHEET, LINK = "style.css", b'<link rel="stylesheet" href="page/style.css">'
TYPES: Mapping[str, str] = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "json": "application/json",
    "svg": "image/svg+xml",
}
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src {sheet}",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",  # no text can become markup, whatever a script of the page does
        "trusted-types 'none'",
    )
)
_STATIC = files(__package__).joinpath("static")
_STYLE = _STATIC.joinpath(SHEET).read_bytes()
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE).digest()).decode()
HEADERS: Mapping[str, str] = {
    "content-security-policy": _POLICY.format(sheet=f"'sha256-{_STYLE_HASH}'"),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    "cache-control": "no-cache",  # asked again each time, by its tag
}
_CLOSED = "the page is open to this machine only; `page.open_to: everyone` in the settings opens it to whoever comes"


@dataclass(frozen=True, slots=True)
class PageFile:
    """One file, with the tag that changes when the file does."""

    body: bytes
    media_type: str
    tag: str


def page_files() -> dict[str, PageFile]:
    """Every file of the page by its name. The style sheet lies in the page: first paint waits for one answer."""
    found = {}
    for each in _STATIC.iterdir():
        if each.name != SHEET and (media_type := TYPES.get(each.name.rpartition(".")[2])) is not None:
            body = each.read_bytes().replace(LINK, b"<style>%b</style>" % _STYLE)
            found[each.name] = PageFile(body, media_type, f'"{hashlib.sha256(body).hexdigest()[:20]}"')
    return found


def routes(rules: Callable[[], PageSection]) -> APIRouter:
    """The router. `rules` are the settings as they are now."""
    router = APIRouter(include_in_schema=False)
    known = page_files()

    def served(name: str, request: Request) -> Response:
        check(rules(), request)
        file = known.get(name)
        if file is None:
            raise NotFound(f"the page has no file {name[:100]!r}", code="unknown_url")
        headers = {**HEADERS, "etag": file.tag}
        if file.tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(file.body, media_type=file.media_type, headers=headers)

    @router.api_route("/", methods=["GET", "HEAD"])
    async def index(request: Request) -> Response:
        return served(INDEX, request)

    @router.api_route("/page/{name}", methods=["GET", "HEAD"])
    async def file(name: str, request: Request) -> Response:
        return served(name, request)

    return router


def check(rules: PageSection, request: Request) -> None:
    """Raises: NotFound where there is no page, Forbidden where it is not for whoever asks."""
    if rules.open_to == "nobody":
        raise NotFound("this gateway serves no page (page.open_to is nobody)", code="unknown_url")
    if rules.open_to == "loopback" and not is_loopback(request):
        raise Forbidden(_CLOSED)
