"""The programs of examples/ run as a reader runs them, those that need a gateway against one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.snippets import ROOT, Stage, stage

PROGRAMS = {
    "ask.py": ("decision dec-", "streamed:"),
    "feedback.py": ("scored", "what the gateway keeps"),
    "own_policy.py": ("cautious", "neighbours"),
    "litellm_migration.py": ("small", "pointsman import litellm"),
}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with stage(tmp_path_factory.mktemp("examples") / "stage") as made:
        made.serve("pointsman serve --port 8093")
        key = made.folder / "home" / ".local" / "state" / "pointsman" / "first-key"
        made.bash(
            f"POINTSMAN_URL=http://127.0.0.1:8093 POINTSMAN_KEY=$(cat {key}) OPENAI_API_KEY=a LITELLM_MASTER_KEY=sk-b"
        )
        yield made


@pytest.mark.timeout(300)
@pytest.mark.parametrize("program", PROGRAMS)
def test_it_runs_and_says_what_it_found(program: str, here: Stage) -> None:
    said = here.bash(f"python examples/{program}")
    assert [each for each in PROGRAMS[program] if each not in said] == [], said


@pytest.mark.timeout(300)
def test_every_cell_of_the_notebook_runs(here: Stage) -> None:
    cells = json.loads((ROOT / "examples/replay.ipynb").read_text(encoding="utf-8"))["cells"]
    trace = here.folder / "trace.parquet"
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    here.python(f"import os\nos.environ['TRACE'] = {str(trace)!r}\n{code}\nassert 'neighbours' in report.budget\n")


def test_every_program_of_the_folder_is_run_here() -> None:
    there = {path.name for path in Path(ROOT / "examples").iterdir() if path.suffix in {".py", ".ipynb"}}
    assert there == {*PROGRAMS, "replay.ipynb"}
