"""The input of a kept answer as OpenAI lists it: items with ids, parts and states. Pure."""

from __future__ import annotations

from typing import Any, Literal

from router.errors import InvalidRequest

Order = Literal["asc", "desc"]
_PARTS: dict[str, dict[str, Any]] = {
    "input_image": {"detail": "auto"},
    "output_text": {"annotations": [], "logprobs": []},
}  # what a client may leave out of a part, and OpenAI's list never does


def page(items: list[Any], *, of: str, limit: int, order: Order, after: str | None) -> dict[str, object]:
    """One page of what led to the response named `of`. Raises: InvalidRequest for an `after` that is no item's id."""
    shown = [_shown_item(item, f"{of}_{number}") for number, item in enumerate(items)]
    if order == "desc":
        shown.reverse()
    ids = [item["id"] for item in shown]
    if after is not None and after not in ids:
        raise InvalidRequest(f"there is no item {after!r}", param="after")
    start = ids.index(after) + 1 if after is not None else 0
    data = shown[start : start + limit]
    first, last = (data[0]["id"], data[-1]["id"]) if data else ("", "")
    return {"object": "list", "data": data, "first_id": first, "last_id": last, "has_more": start + limit < len(shown)}


def _shown_item(item: Any, item_id: str) -> Any:
    kind = item.get("type") or "message"
    shown = {"id": item_id, "type": kind, **{key: value for key, value in item.items() if value is not None}}
    if kind != "reasoning":
        shown.setdefault("status", "completed")
    if kind == "message":
        content = shown.get("content", "")
        said = "output_text" if shown.get("role") == "assistant" else "input_text"
        parts = [{"type": said, "text": content}] if isinstance(content, str) else content
        shown["content"] = [{**_PARTS.get(str(part.get("type")), {}), **part} for part in parts]
    return shown
