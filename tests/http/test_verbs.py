"""The verbs that talk to a gateway start one of their own where none answers."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.anyio

# the verb as it is, on a machine where nothing answers on the default port, whatever listens there on this one
VERB = """
import sys
from evaluation import local_gateway
local_gateway.DEFAULT_URL = "http://127.0.0.1:9"
from cli import main
sys.exit(main(sys.argv[1:]))
"""


async def run(folder: Path, *arguments: str) -> tuple[int | None, str, str]:
    """(exit code, stdout, stderr) of a verb in an empty folder."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        VERB,
        *arguments,
        cwd=folder,
        env={**os.environ, "COLUMNS": "160", "PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


async def test_route_prints_a_decision_of_the_packaged_family(tmp_path: Path) -> None:
    code, out, err = await run(tmp_path, "route", "What is 17 + 25?", "--json")
    assert code == 0, err
    decision = json.loads(out)
    assert decision["model"] in [each["model"] for each in decision["candidates"]]
    assert sum(each.get("probability", 0.0) for each in decision["candidates"]) == pytest.approx(1.0)


async def test_demo_grades_prompts_and_compares_with_the_simple_ways(tmp_path: Path) -> None:
    code, out, err = await run(tmp_path, "demo", "--prompts", "12")
    assert code == 0, err + out
    assert "12 prompts, each four times" in out
    assert "--prompts 100" in out
    for said in ("Where the prompts went", "always large", "always small", "random", "Learning"):
        assert said in out


async def test_a_gateway_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    code, _, err = await run(tmp_path, "route", "hello", "--url", "http://127.0.0.1:9")
    assert (code, len(err.strip().splitlines())) == (2, 1)
    assert "no gateway answers" in err
