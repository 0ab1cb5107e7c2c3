"""The numpy engine against transformers, which the environment of vLLM brings with torch."""

from __future__ import annotations

import os
import re
import subprocess

from tests.vllm.engines import QUIET, ROOT, VENV


def test_what_needs_torch_passes_where_torch_is_and_nothing_of_it_is_skipped() -> None:
    options = ("--noconftest", "-p", "no:cacheprovider", "-o", "filterwarnings=ignore", "-o", "timeout=500")
    command = [VENV / "bin" / "python", "-m", "pytest", "tests/anyprec/test_agreement.py", *options]
    variables = os.environ | QUIET | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=variables, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert re.search(r"\d+ passed", done.stdout)
    assert "skipped" not in done.stdout
