"""Which code made a figure, and on what: the line below a table that a command prints or puts into a page."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path


def commit() -> str:
    """The commit of the working tree, with "-dirty" where files differ from it; "unknown" without git."""
    found = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"


def machine() -> str:
    """Cores and processor; GPUs where there are any."""
    cpuinfo = Path("/proc/cpuinfo")
    named = re.search(r"^model name\s*: (.+)$", cpuinfo.read_text(), re.MULTILINE) if cpuinfo.exists() else None
    gpus = _gpus() if shutil.which("nvidia-smi") else []
    return ", ".join([f"{os.cpu_count()} cores", named.group(1) if named else "a processor without a name", *gpus])


def _gpus() -> list[str]:
    asked = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.splitlines()


def provenance() -> str:
    """One line for a page."""
    return f"Made by commit {commit()} on {machine()}."


def put(page: Path, part: str, lines: Sequence[str]) -> None:
    """Put lines, and where they are from, between `<!-- PART: made by COMMAND -->` and `<!-- end of PART -->`.

    Raises: SystemExit where the page has no such marks.
    """
    begin, end = rf"<!-- {re.escape(part)}: made by [^>]+ -->\n", f"<!-- end of {re.escape(part)} -->"
    made = "\n".join([*lines, "", provenance(), ""])
    between = re.compile(f"({begin}).*?({end})", re.DOTALL)
    text, found = between.subn(lambda marks: f"{marks[1]}{made}{marks[2]}", page.read_text(), count=1)
    if not found:
        raise SystemExit(f"{page} has no <!-- {part}: made by … --> with an end")
    page.write_text(text)
