"""/docs: the OpenAPI document as a page that needs nothing of any other origin, and no script."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Sequence
from html import escape
from typing import Any, Final

from router.http.openapi import SAID, access_of

Json = dict[str, Any]
TAGS: Final = ("models", "routing", "operations", "operator", "admin", "litellm")
TITLES: Final = {
    "models": "Ask a model",
    "routing": "Decisions, feedback, models, kept answers",
    "operations": "Health and operations",
    "operator": "Operations",
    "admin": "Administration",
    "litellm": "Administration as LiteLLM's clients know it",
}
HEADERS: Final = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}
_STYLE: Final = """
:root { color-scheme: light dark; --line: color-mix(in srgb, CanvasText 18%, Canvas); }
body { font: 15px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 60rem; padding: 1rem 1rem 4rem; }
code, pre { font: 13px/1.45 ui-monospace, monospace; }
pre { background: color-mix(in srgb, CanvasText 6%, Canvas); overflow-x: auto; padding: .6rem .8rem; }
details { border-top: 1px solid var(--line); padding: .35rem 0; }
summary { cursor: pointer; overflow-wrap: anywhere; }
summary b { display: inline-block; min-width: 4.2rem; }
summary span { color: GrayText; }
table { border-collapse: collapse; } td, th { padding: .15rem .8rem .15rem 0; text-align: left; vertical-align: top; }
"""


def page_of(document: Json, url: str) -> str:
    """The page; `url` is where the gateway was asked."""
    info = document["info"]
    title = f"{escape(info['title'])} {escape(info['version'])}"
    parts = "".join(_groups(document))
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>'
        f"<h1>{title}</h1><p>{escape(info['description'])} For programs: "
        f'<a href="openapi.json">openapi.json</a>. To paste the lines below:</p>'
        f"<pre>URL={escape(shlex.quote(url.rstrip('/')))} KEY=$(pointsman keys first)</pre>{parts}</body></html>"
    )


def _groups(document: Json) -> Iterator[str]:
    found: dict[str, list[str]] = {}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            found.setdefault(operation["tags"][0], []).append(_route(path, method, operation, document))
    for tag in sorted(found, key=lambda each: (TAGS.index(each) if each in TAGS else len(TAGS), each)):
        yield f'<h2 id="{escape(tag)}">{escape(TITLES.get(tag, tag))}</h2>{"".join(found[tag])}'


def _route(path: str, method: str, operation: Json, document: Json) -> str:
    said = escape(operation.get("description") or operation.get("summary") or "")
    title = _first_sentence(operation.get("description", "")) or operation["summary"]
    line = f"<summary><b>{method.upper()}</b> <code>{escape(path)}</code> <span>{escape(title)}</span>"
    return (
        f"<details>{line}</summary><p>{said}</p><p>Needs: {escape(SAID[access_of(path)])}.</p>{_parameters(operation)}"
        f"<pre>{escape(operation['x-codeSamples'][0]['source'])}</pre>"
        f"{_fields(operation, document)}{_answer(operation)}</details>"
    )


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=[.;:])\s", text.strip(), maxsplit=1)[0].rstrip(".;:")


def _parameters(operation: Json) -> str:
    rows = [(each["name"], each["in"], _kind(each["schema"])) for each in operation.get("parameters", ())]
    return _table(("parameter", "in", "kind"), rows)


def _fields(operation: Json, document: Json) -> str:
    """Of a body whose schema is known."""
    schema = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    name = schema.get("$ref", "").rpartition("/")[2]
    fields = document.get("components", {}).get("schemas", {}).get(name, {}).get("properties", {})
    return _table(("field", "kind", ""), [(key, _kind(one), one.get("description", "")) for key, one in fields.items()])


def _kind(schema: Json) -> str:
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_kind(each) for each in schema["anyOf"]))
    if "enum" in schema:
        return ", ".join(map(str, schema["enum"]))
    return str(schema.get("type") or schema.get("$ref", "").rpartition("/")[2] or "anything")


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    if not rows:
        return ""
    lines = ["".join(f"<td>{escape(str(cell))}</td>" for cell in row) for row in rows]
    return f"<table><tr>{''.join(f'<th>{each}</th>' for each in head)}</tr><tr>{'</tr><tr>'.join(lines)}</tr></table>"


def _answer(operation: Json) -> str:
    for code, answer in operation["responses"].items():
        example = answer.get("content", {}).get("application/json", {}).get("example")
        if code.startswith("2") and example is not None:
            return f"<p>Answers</p><pre>{escape(json.dumps(example, indent=2, ensure_ascii=False))}</pre>"
    return ""
