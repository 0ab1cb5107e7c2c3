"""Who is asking, from the headers of a request."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from typing import Any

from fastapi import Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from router.errors import Forbidden, InvalidRequest, Unauthenticated
from router.settings.credentials import Credentials
from router.types import Principal

_HINT = "send it as 'Authorization: Bearer sk-…' or 'x-api-key: sk-…'"


def secret_of(headers: Mapping[bytes, bytes]) -> str | None:
    """The key a client sent, or None: as a bearer token, Anthropic's x-api-key or Azure's api-key."""
    authorization = headers.get(b"authorization")
    if authorization is not None and authorization[:7].lower() == b"bearer ":
        return authorization[7:].strip().decode("latin-1") or None
    api_key = headers.get(b"x-api-key") or headers.get(b"api-key")
    return api_key.strip().decode("latin-1") or None if api_key is not None else None


class Authentication:
    """Turns a secret into a principal."""

    def __init__(self, keys: Credentials, *, clock: Callable[[], float]) -> None:
        self._keys = keys
        self._clock = clock

    async def principal(self, secret: str | None) -> Principal:
        """Raises: Unauthenticated, StoreUnavailable."""
        if secret is None:
            if self._keys.anonymous is not None:
                return self._keys.anonymous
            raise Unauthenticated(f"this gateway needs a key; {_HINT}")
        principal = await self._keys.find(secret, int(self._clock() * 1000))
        if principal is None:
            raise Unauthenticated(f"the key is unknown, disabled or expired; {_HINT}")
        return principal

    async def of(self, headers: Iterable[tuple[bytes, bytes]]) -> Principal:
        """The principal of raw ASGI headers. Raises: Unauthenticated, StoreUnavailable."""
        return await self.principal(secret_of(dict(headers)))


def key_first(authentication: Authentication, *, admin: bool = False) -> type[APIRoute]:
    """Routes that look at the key before they read a body, and then read all of it under the limits of every route.

    `request.state.principal` says who asks. Raises: Unauthenticated, Forbidden, InvalidRequest (413, 408).
    """

    class KeyFirst(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle, known = super().get_route_handler(), frozenset(_query_of(self.dependant))

            async def look_and_handle(request: Request) -> Response:
                principal = await authentication.of(request.scope["headers"])
                request.state.principal = principal
                if admin:
                    require_admin(principal)
                if request.url.path.startswith("/admin/"):
                    _check_query(request.query_params, known)
                await request.body()  # it is kept for the handler
                return await handle(request)

            return look_and_handle

    return KeyFirst


def _query_of(dependant: Dependant) -> Iterator[str]:
    """Names of query parameters."""
    yield from (each.alias for each in dependant.query_params)
    for each in dependant.dependencies:
        yield from _query_of(each)


def _check_query(asked: Iterable[str], known: frozenset[str]) -> None:
    """A filter that has no effect shows what nobody asked for. Raises: InvalidRequest."""
    for name in asked:
        if name not in known:
            there = f"there are {', '.join(sorted(known))}" if known else "there is none"
            raise InvalidRequest(f"There is no query parameter {name[:40]!r} here; {there}.", param=name[:40])


def require_admin(principal: Principal) -> None:
    """Raises: Forbidden where the key is not an admin's."""
    if not principal.admin:
        raise Forbidden("this needs the admin key")
