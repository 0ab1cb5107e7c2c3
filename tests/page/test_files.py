"""The page comes from the gateway itself, and a browser is told how little it may do with it."""

from __future__ import annotations

import json
import re
import urllib.request
from typing import Any

import numpy as np
import pytest

from evaluation.skills import SKILLS, sample
from router.http.page.files import page_files
from tests.http.conftest import Running
from tests.page.conftest import ACME, client

KNOWN: list[dict[str, Any]] = json.loads(page_files()["skills.json"].body)
PATTERNS = [re.compile(pattern, re.IGNORECASE) for skill in KNOWN for pattern in skill["patterns"]]
FOREIGN = (
    "Hello",
    "Who are you?",
    "What is the capital of France?",
    "Write a poem about spring",
    "How do I sort a list in Python?",
    "Summarise this article in three sentences.",
    "Translate good morning to French",
    "How many people live in Berlin?",
    "What day is it today?",
    "Tell me a joke about numbers 1 to 10",
    "Fix this code: for i in range(10): print(i)",
    "What do you think of the new phone?",
)


def can_do(request: str) -> bool:
    return any(pattern.search(request) for pattern in PATTERNS)


def test_the_page_and_all_it_needs_come_from_the_gateway(gateway: Running) -> None:
    with client(gateway, key="") as anyone:
        page = anyone.get("/")
        assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
        for name, file in page_files().items():
            found = anyone.get(f"/page/{name}")
            assert (found.status_code, found.content) == (200, file.body)
            assert found.headers["content-type"] == file.media_type
            assert anyone.get(f"/page/{name}", headers={"if-none-match": file.tag}).status_code == 304
            assert anyone.head(f"/page/{name}").content == b""
        assert anyone.get("/page/nothing.js").status_code == 404
        assert anyone.post("/").status_code == 405


def test_no_file_of_the_page_names_another_origin() -> None:
    for name, file in page_files().items():
        found = set(re.findall(rb"(?:https?:)?//[a-z0-9.-]+\.[a-z]+", file.body)) - {b"http://www.w3.org"}
        assert not found, (name, found)


def test_the_headers_allow_the_pages_own_files_and_nothing_else(gateway: Running) -> None:
    with client(gateway, key="") as anyone:
        for path in ("/", "/page/app.js", "/page/about"):
            headers = anyone.get(path).headers
            policy = headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "require-trusted-types-for 'script'" in policy
            assert "unsafe" not in policy
            assert "http" not in policy
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["referrer-policy"] == "no-referrer"


def test_a_browser_on_another_machine_does_not_get_it_unless_the_settings_say_so(gateway: Running) -> None:
    with client(gateway) as tenant:
        assert tenant.get("/", headers={"x-forwarded-for": "10.0.0.1"}).status_code == 403
        assert tenant.get("/", headers={"host": "evil.example"}).status_code == 403
        assert tenant.get("/page/about", headers={"host": "evil.example"}).status_code == 403


def test_what_is_known_without_a_key_is_public(gateway: Running) -> None:
    with client(gateway, key="") as anyone:
        about = anyone.get("/page/about").json()
    assert about.keys() == {"version", "needs_key", "packaged"}
    assert about["needs_key"] is True
    assert "large@8bit" in about["packaged"]


def test_every_skill_of_the_packaged_models_is_known_to_the_page() -> None:
    assert {skill["name"] for skill in KNOWN} == set(SKILLS)
    unknown = [item.prompt for item in sample(2_000, rng=np.random.default_rng(7)) if not can_do(item.prompt)]
    assert unknown == []


@pytest.mark.parametrize("request_text", FOREIGN)
def test_what_no_packaged_model_can_do_is_not_taken_for_a_skill(request_text: str) -> None:
    assert not can_do(request_text)


def test_every_example_is_a_skill_and_the_largest_model_has_it_right(gateway: Running) -> None:
    examples = [skill for skill in KNOWN if "example" in skill]
    assert len(examples) >= 20
    with client(gateway) as tenant:
        for each in examples:
            assert can_do(each["example"]), each
            body = {"model": "large@8bit", "temperature": 0, "messages": [{"role": "user", "content": each["example"]}]}
            answer = tenant.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]["content"]
            assert answer.strip() == each["answer"], each


def test_nothing_of_the_page_changes_anything_by_a_get(gateway: Running) -> None:
    request = urllib.request.Request(f"{gateway.url}/openapi.json")
    with urllib.request.urlopen(request) as answer:
        paths = json.load(answer)["paths"]
    for path in ("/", "/page/about"):
        assert paths.get(path, {}).keys() <= {"get", "head"}
    changing = ("disable", "enable", "rotate", "confirm", "feedback", "route")
    assert [path for path, verbs in paths.items() if path.endswith(changing) and "get" in verbs] == []
    assert ACME not in json.dumps(paths)
