"""Every snippet of README.md and docs/ does what its page says: it is run as it is printed."""

from __future__ import annotations

import json
import re
import shlex
import socket
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cli import parser
from router.http.schemas import parse
from tests.snippets import BIN, ROOT, Snippet, Stage, commands, snippets, stage

PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
ALL = [snippet for page in PAGES for snippet in snippets(page)]
RUN = {"bash", "python", "yaml", "json"}
SERVERS = ("make serve", "pointsman engine", "pointsman serve")
VLLM, GPU, MINUTES, TRAINING = (
    "needs vLLM, a gigabyte of its own: make test-vllm runs it",
    "needs a CUDA device",
    "minutes of work",
    "needs torch",
)
ELSEWHERE = {
    "make demo": f"{MINUTES}: tests/http/test_verbs.py runs it with twelve prompts",
    "pip install 'pointsman[vllm]'": VLLM,
    "vllm serve": VLLM,
    "curl localhost:8000": VLLM,
    "python -m pytest tests/gpu": GPU,
    "python -m benchmarks.kernels": GPU,
    "python -m benchmarks.gpu": GPU,
    "python -m benchmarks.quality": GPU,
    "make bench": f"{MINUTES}, with nginx and wrk: tests/benchmarks runs what needs neither",
    "BENCH_VECTORS=100000 make bench": MINUTES,
    "pointsman quantize": f"{MINUTES}: tests/anyprec/test_quantize.py; the packaged store stands for what it writes",
    "pointsman profile": f"{TRAINING}: tests/anyprec/test_profiles.py",
    "pointsman compensate": f"{TRAINING}: tests/anyprec/test_compensate.py",
    "pointsman replay": f"{MINUTES}: tests/policies/test_replay_command.py runs it on a short trace",
    "pointsman tune": f"{MINUTES}: tests/policies/test_replay_command.py runs it on a short trace",
    "python -m benchmarks.drift": MINUTES,
    "python -m benchmarks.policies": MINUTES,
    "python -m research.ladder": "nearly an hour of the numpy engine",
    "python -m research.trial": TRAINING,
    "python -m research.train": TRAINING,
    "python -m research.pack": TRAINING,
}  # the commands that are not run here, by how they begin, and why


def why_elsewhere(command: str) -> str | None:
    return next((why for begins, why in ELSEWHERE.items() if command.startswith(begins)), None)


def of(page: str) -> list[Snippet]:
    return [snippet for snippet in ALL if snippet.page == page]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with stage(tmp_path_factory.mktemp("snippets") / "stage") as made:
        if not made.network:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", 8080)) == 0:
                    pytest.skip("port 8080, which README names, is taken, and no network of one's own can be had here")
        yield made


def play(here: Stage, page: str) -> None:
    """The programs of a page, in order; those that are run elsewhere left out."""
    for snippet in of(page):
        if snippet.language == "python":
            here.python(snippet.text)
        for command in commands(snippet.text) if snippet.language == "bash" else ():
            if command.startswith(SERVERS):
                here.serve(command)
            elif why_elsewhere(command) is None:
                here.bash(command)


@pytest.mark.timeout(900)
def test_readme_from_top_to_bottom(here: Stage) -> None:
    play(here, "README.md")
    assert "What is 17 + 25?" not in (here.folder / "repository" / "head.txt").read_text()
    tables_as_documented(here.folder / "home" / ".local" / "state" / "pointsman" / "pointsman.db")


def tables_as_documented(database: Path) -> None:
    """The sqlite3 session of docs/money.md: its statements run, and name the columns that the page shows."""
    (session,) = [each.text for each in of("docs/money.md") if "sqlite>" in each.text]
    parts = session.split("sqlite> ")[1:]
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as db:
        for part in parts:
            statement, shown = part.split("\n")[:2]
            names = [each[0] for each in db.execute(statement).description]
            assert names == shown.split(), statement
    db.close()


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "page", sorted({each.page for each in ALL if each.language in {"bash", "python"}} - {"README.md"})
)
def test_the_programs_of_a_page_run(here: Stage, page: str) -> None:
    store = here.folder / "repository" / "my-store"
    if not store.exists():
        store.symlink_to(ROOT / "backends" / "family" / "stores" / "small")
    play(here, page)


@pytest.mark.parametrize(
    "snippet", [each for each in ALL if each.language == "yaml"], ids=lambda each: f"{each.page}:{each.line}"
)
def test_settings_are_what_a_gateway_would_start_with(snippet: Snippet, tmp_path: Path) -> None:
    done = check(snippet.text, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def check(text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """`pointsman check` of these settings, with a value for each variable that they name."""
    (folder / "pointsman.yaml").write_text(text)
    env = dict.fromkeys(re.findall(r"\$\{([A-Z_]+)\}", text), "sk-a-secret-of-the-tests") | {"HOME": str(folder)}
    command = [str(BIN / "pointsman"), "check", "--offline", "pointsman.yaml"]
    return subprocess.run(
        command, cwd=folder, env={**env, "PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=False
    )


def test_complaints_about_settings_read_as_the_page_shows_them(tmp_path: Path) -> None:
    (shown,) = [each.text for each in of("docs/settings.md") if each.text.startswith("models[2].price")]
    model = "{name: %s, backend: b, price: {prompt: %s, completion: 1}}"
    models = ", ".join(model % (name, price) for name, price in (("a", 1), ("b", 2), ("c", "cheap")))
    said = check(
        f"backends: {{b: {{kind: vllm, url: 'http://e:1'}}}}\nmodels: [{models}]\nserver: {{hots: x}}\n", tmp_path
    )
    assert said.returncode == 2
    for line in shown.split("\n"):
        assert line.rstrip("…") in said.stdout + said.stderr


def test_json_is_what_a_request_may_hold() -> None:
    for snippet in [each for each in ALL if each.language == "json"]:
        body: dict[str, Any] = {
            "model": "auto",
            "messages": [{"role": "user", "content": "x"}],
            **json.loads(snippet.text),
        }
        call = parse("/v1/chat/completions", json.dumps(body).encode(), {}, aliases={}, meaning=str)
        assert call.requirements.allowed == frozenset({"small", "large"})


def test_every_language_is_one_that_is_run_or_plain_text() -> None:
    assert {each.language for each in ALL} <= {*RUN, "text", ""}
    hidden = re.compile(r"^(pointsman|make|curl|python|pip|docker|vllm|kubectl|from \w+ import|import|class|async) ")
    assert [each for each in ALL if each.language in {"text", ""} and hidden.match(each.text)] == []


def test_what_is_run_elsewhere_is_on_a_page_and_could_be_run() -> None:
    bash = [command for each in ALL if each.language == "bash" for command in commands(each.text)]
    left = [command for command in bash if why_elsewhere(command) is not None]
    assert [begins for begins in ELSEWHERE if not any(command.startswith(begins) for command in left)] == []
    for command in left:
        words = shlex.split(command.partition(">")[0], comments=True)
        if words[0] == "pointsman":
            parser().parse_args(words[1:])
        elif words[:2] == ["python", "-m"] and words[2] != "pytest":
            assert unknown_options(words[2], words[3:]) == [], command


def unknown_options(module: str, words: list[str]) -> list[str]:
    """Options that the source of a module, or of its package, does not name."""
    path = ROOT / module.replace(".", "/")
    sources = [path.with_suffix(".py")] if path.with_suffix(".py").exists() else sorted(path.glob("*.py"))
    text = "".join(source.read_text() for source in sources)
    assert text, f"{module} does not exist"
    return [word for word in words if word.startswith("--") and f'"{word}"' not in text]
