"""The OpenAPI document: every route with who may ask and an example, those that call a model too. Cannot fail."""

from __future__ import annotations

import copy
import json
import re
import shlex
from collections.abc import Mapping
from importlib.resources import files
from typing import Any, Literal

from fastapi import FastAPI

Json = dict[str, Any]
Access = Literal["open", "key", "admin", "operator"]
_ADMIN = re.compile(r"/admin/|/key/(?:generate|update|delete|list)$|/spend/")
_OPEN = re.compile(r"/$|/page/|/health|/ready")
_OPERATOR = ("/metrics", "/docs", "/openapi.json")
SCHEMES: Mapping[str, Json] = {
    "key": {
        "type": "http",
        "scheme": "bearer",
        "description": "A key: of the settings file, made by `pointsman keys create`, or printed at the first start. "
        "`x-api-key` and `api-key` carry it as well. Where `auth.required` is false none is needed.",
    },
    "admin": {"type": "http", "scheme": "bearer", "description": "An admin's key: `auth.admin_key`, or a key made so."},
    "operator": {
        "type": "http",
        "scheme": "bearer",
        "description": "An admin's key or `telemetry.key`; from this machine none, as `telemetry.open_to` says.",
    },
}
SAID: Mapping[Access, str] = {
    "open": "nobody's key is needed",
    "key": "any key",
    "admin": "an admin's key",
    "operator": "an admin's key or telemetry.key, or from this machine",
}
_VALUES = {
    "name": "acme",
    "model": "small@4bit",
    "key_id": "k_3a48d118dc65",
    "decision_id": "dec-01a22d3bbe3599fdbfd9e15a7fa22c324e62",
}
_WRONG = {"message": "what is wrong", "type": "invalid_request_error", "param": None, "code": "invalid_value"}


def access_of(path: str) -> Access:
    """Who may ask for a path."""
    if path in _OPERATOR:
        return "operator"
    if _ADMIN.match(path):
        return "admin"
    return "open" if _OPEN.match(path) else "key"


def documented(app: FastAPI) -> Json:
    """The document of an application's routes, and of those that call a model."""
    document = copy.deepcopy(app.openapi())
    examples = _examples()
    for route, example in examples.items():
        method, path = route.split(" ")
        if "tag" in example:  # what FastAPI does not serve, or hides
            document["paths"].setdefault(path, {})[method.lower()] = _operation(example)
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            _complete(path, method, operation, examples.get(f"{method.upper()} {path}", {}))
    components = document.setdefault("components", {})
    components["securitySchemes"] = dict(SCHEMES)
    _mend_defaults(components.get("schemas", {}))
    document["info"]["description"] = "Decides, for every request, which language model answers it."
    return document


def _mend_defaults(schema: Any) -> None:
    """A default is shown where it is of its field's own type; a period that is kept as numbers is none in JSON."""
    if isinstance(schema, dict):
        if schema.get("type") == "string" and not isinstance(schema.get("default", ""), str):
            del schema["default"]
        for each in schema.values():
            _mend_defaults(each)
    elif isinstance(schema, list):
        for each in schema:
            _mend_defaults(each)


def _examples() -> dict[str, Json]:
    found: dict[str, Json] = json.loads(files("router.http").joinpath("examples.json").read_text(encoding="utf-8"))
    return found


def _operation(example: Json) -> Json:
    said = {"tags": [example["tag"]], "summary": example["summary"], "description": example["description"]}
    return {**said, "responses": {"200": {"description": "The answer"}}}


def _complete(path: str, method: str, operation: Json, example: Json) -> None:
    access = access_of(path)
    operation.setdefault("tags", [{"open": "operations", "key": "routing"}.get(access, access)])
    operation["security"] = [] if access == "open" else [{access: []}]
    operation["x-codeSamples"] = [{"lang": "Shell", "label": "curl", "source": curl(path, method, access, example)}]
    if "request" in example:
        body = operation.setdefault("requestBody", {"required": True, "content": {}})
        content = body["content"].setdefault("application/json", {"schema": {"type": "object"}})
        content["example"] = example["request"]
    good = next((code for code in operation["responses"] if code.startswith("2")), "200")
    if "answer" in example:
        answer = operation["responses"].setdefault(good, {"description": "The answer"})
        answer.setdefault("content", {}).setdefault("application/json", {})["example"] = example["answer"]
    operation["responses"].pop("422", None)  # every error is in the API's own shape
    operation["responses"]["default"] = {
        "description": "An error",
        "content": {"application/json": {"example": {"error": _WRONG}}},
    }


def curl(path: str, method: str, access: Access, example: Json) -> str:
    """A line to paste, where URL and KEY are set."""
    filled = re.sub(r"\{(\w+)\}", lambda found: _VALUES.get(found[1], found[1]), path)
    verb = "" if method == "get" or (method == "post" and "request" in example) else f" -X {method.upper()}"
    key = "" if access == "open" else ' -H "Authorization: Bearer $KEY"'
    body = (
        f" \\\n  -d {shlex.quote(json.dumps(example['request'], ensure_ascii=False))}" if "request" in example else ""
    )
    query = f"?{example['query']}" if "query" in example else ""
    return f'curl{verb} "$URL{filled}{query}"{key}{body}'
