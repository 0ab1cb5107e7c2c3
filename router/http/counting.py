"""How many tokens a request would be read as: an estimate by the bytes a model's token covers, without calling it."""

from __future__ import annotations

from fastapi import APIRouter, Request

from router.errors import NotFound
from router.gateway.eligibility import expected_prompt_tokens
from router.gateway.serving import Gateway
from router.http.auth import Authentication
from router.http.schemas import parse, with_field


def routes(gateway: Gateway, authentication: Authentication) -> APIRouter:
    """Anthropic's count_tokens and the input_tokens of Responses."""
    router = APIRouter()

    async def count(request: Request, path: str) -> int:
        await authentication.of(request.scope["headers"])
        decider = gateway.decider
        body = with_field(await request.body(), "max_tokens", 1, replace=False)  # which only an answer needs
        call = parse(path, body, {}, aliases=decider.options.aliases, meaning=decider.meaning)
        models = [
            model
            for model in decider.catalogue.among(call.requirements.pinned)
            if call.requirements.pinned in (None, model.name)
        ]
        if not models:
            raise NotFound(f"there is no model {call.requirements.pinned!r}", param="model", code="model_not_found")
        return max(expected_prompt_tokens(model, call.requirements) for model in models)

    @router.post("/v1/messages/count_tokens")
    async def messages(request: Request) -> dict[str, int]:
        """Of `auto`, the most that any model would read."""
        return {"input_tokens": await count(request, "/v1/messages")}

    @router.post("/v1/responses/input_tokens")
    async def responses(request: Request) -> dict[str, object]:
        """Of `auto`, the most that any model would read."""
        return {"object": "response.input_tokens", "input_tokens": await count(request, "/v1/responses")}

    return router
