"""init writes settings that run, doctor says what is wrong and what to do, completion completes."""

from __future__ import annotations

import argparse
import os
import pty
import shutil
import socket
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from benchmarks.scripted_server import ScriptedServer
from cli import parser
from cli.doctor import findings
from cli.init import Wishes, settings_text, wished
from router.errors import SettingsError
from router.settings import load
from tests.cli.test_welcome import curl, run, welcomed
from tests.http.conftest import engine
from tests.stores.conftest import free_port

BIN = Path(sys.executable).parent


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def one() -> AsyncIterator[ScriptedServer]:
    async with engine(text="fine") as server:
        yield server


def init(*flags: str) -> argparse.Namespace:
    return parser().parse_args(["init", *flags])


def written(tmp_path: Path, wishes: Wishes, models: dict[str, list[str]] | None = None) -> Path:
    path = tmp_path / "pointsman.yaml"
    path.write_text(settings_text(wishes, lambda url: (models or {}).get(url, [])))
    return path


def test_without_any_wish_the_file_serves_the_packaged_models(tmp_path: Path) -> None:
    settings = load(written(tmp_path, Wishes()))
    assert [each.kind for each in settings.backends.values()] == ["embedded"]
    assert settings.state_dir == tmp_path / "pointsman-state"


def test_engines_providers_and_money_are_what_was_wished(tmp_path: Path) -> None:
    wishes = Wishes(("http://gpu:8000",), ("openai/gpt-4o-mini",), "5 USD per day", 0.3, 9000)
    path = written(tmp_path, wishes, {"http://gpu:8000": ["Qwen/Qwen3-8B"]})
    settings = load(path, {"OPENAI_API_KEY": "sk-of-openai"})
    models = {model.name: model.backend for model in settings.candidates()}
    assert models == {"Qwen/Qwen3-8B": "engine-1", "gpt-4o-mini": "openai"}
    assert str(settings.tenants["default"].budgets[0]) == "5 USD per day"
    assert (settings.preference.default, settings.server.port) == (0.3, 9000)


def test_four_answers_stand_for_the_flags() -> None:
    said = iter(["gpu-1:8000, http://gpu-2:8000", "openai/gpt-4o-mini", "5 USD per day", ""])
    asked: list[str] = []
    wishes = wished(init(), lambda question: asked.append(question) or next(said))  # type: ignore[func-returns-value]
    assert len(asked) == 4
    assert wishes == Wishes(("http://gpu-1:8000", "http://gpu-2:8000"), ("openai/gpt-4o-mini",), "5 USD per day")


def test_an_answer_that_cannot_be_is_asked_for_again(capsys: pytest.CaptureFixture[str]) -> None:
    said = iter(["", "", "5 usd a day", "5 USD per day", "high", "0.8"])
    wishes = wished(init(), lambda _: next(said))
    assert (wishes.budget, wishes.preference) == ("5 USD per day", 0.8)
    reported = capsys.readouterr().out.splitlines()
    assert "expected a budget such as '5 USD per day'" in reported[0]
    assert "expected a number from 0 to 1" in reported[1]


def test_nothing_is_asked_where_a_flag_is_given() -> None:
    assert wished(init("--preference", "1"), pytest.fail).preference == 1.0


@pytest.mark.parametrize(("flags", "said"), [
    (["--budget", "5 dollars"], "budget"),
    (["--preference", "7"], "expected a number from 0 to 1"),
    (["--port", "99999"], "port"),
    (["--out", "no/such/folder/x.yaml"], "cannot be written"),
])  # fmt: skip
def test_a_wish_that_cannot_run_is_one_line_and_no_file(tmp_path: Path, flags: list[str], said: str) -> None:
    command = [sys.executable, "-m", "pointsman", "init", *flags]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    assert done.returncode == 2
    assert said in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pointsman.yaml").write_text("mine: yes")
    arguments = init()
    with pytest.raises(SettingsError, match="is there already"):
        arguments.run(arguments)
    assert (tmp_path / "pointsman.yaml").read_text() == "mine: yes"


def test_at_a_terminal_it_asks_and_what_it_prints_runs(tmp_path: Path) -> None:
    """As a stranger would: four times return, then each line that it prints."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "pointsman", "init"]
    env = os.environ | {"PATH": f"{BIN}:/usr/bin:/bin"}
    process = subprocess.Popen(command, cwd=tmp_path, env=env, stdin=theirs, stdout=subprocess.PIPE, text=True)
    os.write(ours, b"\n\n\n\n")
    printed, _ = process.communicate(timeout=60)
    os.close(ours)
    os.close(theirs)
    assert printed.count("> ") == 4
    hints = [line.strip() for line in printed.splitlines() if line.startswith("  ")]
    assert [hint.split()[1] for hint in hints] == ["check", "doctor", "serve"]
    assert "policy    paced" in run(tmp_path, hints[0])
    assert "nothing is wrong" in run(tmp_path, f"sed -i 's/port: 8080/port: {free_port()}/' pointsman.yaml; {hints[1]}")


def test_what_init_wrote_is_served_and_answers(tmp_path: Path) -> None:
    run(tmp_path, "pointsman init --out first.yaml < /dev/null")
    import yaml

    with welcomed(tmp_path, yaml.safe_load((tmp_path / "first.yaml").read_text())) as printed:
        assert "choices" in run(tmp_path, curl(printed))


def said(path: Path) -> dict[str, tuple[str, str, str]]:
    """(state, text, remedy) by what was looked at; the last of each."""
    return {each.what: (each.state, each.said, each.remedy) for each in findings(path)}


def doctored(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "p.yaml"
    path.write_text(f"state_dir: state\nserver: {{port: {free_port()}}}\n{text}")
    return path


MODEL = "models: [{name: m, price: {prompt: 1, completion: 1}}]\n"


def test_it_finds_an_engine_that_is_dead(tmp_path: Path) -> None:
    state, text, remedy = said(
        doctored(tmp_path, f'backends: {{gpu: {{kind: vllm, url: "http://127.0.0.1:9"}}}}\n{MODEL}')
    )["engine"]
    assert (state, remedy) == ("bad", "start it, or mend backends.gpu.url")
    assert text == "gpu at http://127.0.0.1:9: it does not answer: Connection refused"


@pytest.mark.anyio
async def test_it_finds_engines_that_answer(tmp_path: Path, one: ScriptedServer) -> None:
    import asyncio

    path = doctored(tmp_path, f'backends: {{gpu: {{kind: vllm, url: "{one.url}"}}}}\n{MODEL}')
    found = await asyncio.to_thread(said, path)
    assert found["engine"][:2] == ("good", f"gpu at {one.url}: answers")
    assert {state for state, _, _ in found.values()} <= {"good", "odd"}


def test_it_names_the_key_of_settings_that_is_wrong(tmp_path: Path) -> None:
    found = said(doctored(tmp_path, "polcy: {}\n"))
    assert found["settings"][0] == "bad"
    assert "polcy: unknown key" in found["settings"][1]
    assert list(found) == ["settings"]


def test_it_finds_a_store_that_does_not_open(tmp_path: Path) -> None:
    path = doctored(tmp_path, "store: {sqlite: broken.db}\n")
    (tmp_path / "broken.db").write_bytes(b"no database" * 1000)
    assert said(path)["store"][0] == "bad"
    away = doctored(tmp_path, 'store: {redis: "redis://127.0.0.1:9/0", timeout_s: 0.2}\n')
    state, _, remedy = said(away)["store"]
    assert (state, remedy) == ("bad", "start Redis, or mend store.redis")


def test_a_clock_that_has_jumped_is_mended_by_the_line_it_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = doctored(tmp_path, "")
    assert said(path)["clock"][0] == "good"
    with sqlite3.connect(tmp_path / "state" / "pointsman.db") as database:
        database.execute("UPDATE facts SET newest_ms = (strftime('%s') + 86400 * 30) * 1000")
    database.close()
    state, text, remedy = said(path)["clock"]
    assert state == "bad", text
    assert "no money is reserved" in text
    assert "confirmed" in run(tmp_path, remedy.partition("then: ")[2])
    assert said(path)["clock"][0] == "good"


def test_it_finds_a_port_that_another_program_has(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        path = tmp_path / "p.yaml"
        path.write_text(f"state_dir: state\nserver: {{port: {other.getsockname()[1]}}}\n")
        assert said(path)["port"][0] == "bad"


def test_it_finds_a_gateway_that_runs_and_its_exit_code_says_what_is_wrong(tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "p.yaml").write_text(f"state_dir: pointsman\nserver: {{port: {port}}}\n")
    assert "nothing is wrong" in run(tmp_path, "pointsman doctor p.yaml")
    (tmp_path / "bad.yaml").write_text("polcy: {}\n")
    assert run(tmp_path, "pointsman doctor bad.yaml || echo code $?").endswith("code 1\n")


def completed(shell: str, script: Path, words: str) -> list[str]:
    """What bash would offer for the last of some words."""
    program = f"""
    source {script}
    COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
    _pointsman; printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run([shell, "-c", program], capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("completion")
    run(folder, "pointsman completion bash > script")
    return folder / "script"


@pytest.mark.parametrize(("words", "offered"), [
    ("pointsman do", ["doctor"]),
    ("pointsman keys cr", ["create"]),
    ("pointsman keys create --bu", ["--budget"]),
    ("pointsman keys create acme --bu", ["--budget"]),
    ("pointsman completion f", ["fish"]),
    ("pointsman serve --wor", ["--workers"]),
])  # fmt: skip
def test_bash_completes_verbs_choices_and_options(script: Path, words: str, offered: list[str]) -> None:
    assert completed("bash", script, words) == offered


def test_where_no_word_fits_files_do(script: Path, tmp_path: Path) -> None:
    (tmp_path / "settings.yaml").touch()
    assert completed("bash", script, f"pointsman check {tmp_path}/sett") == [f"{tmp_path}/settings.yaml"]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_take_theirs(shell: str, tmp_path: Path) -> None:
    printed = run(tmp_path, f"pointsman completion {shell}")
    assert "doctor" in printed
    if shutil.which(shell):
        subprocess.run([shell, "--no-execute" if shell == "fish" else "-n", "-c", printed], check=True)


def test_the_verbs_begin_quickly(tmp_path: Path) -> None:
    """Nothing of the gateway is imported to complete a word."""
    program = (
        "import sys; from cli import main; main(['completion', 'bash']); print(sorted(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert not {"fastapi", "numpy", "faiss", "pydantic"} & set(done.stderr.split())
