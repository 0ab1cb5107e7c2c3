"""A site of the pages, made by mkdocs-material (extra `docs`): `python docs/site.py FOLDER`.

It works without a network. Pages keep their places, so that links are the same in the repository and in the site. Files
that they link to come along.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOREIGN = re.compile(r'<script src="https://[^"]*"></script>')  # a shim of search in pages that are opened as files
LINK = re.compile(r"\]\((?!https?://|#|mailto:)([^)#\s]+)")


def pages() -> list[Path]:
    """Every page, relative to the repository."""
    found = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("deploy/*.md")]
    return sorted(page.relative_to(ROOT) for page in found)


def linked(page: Path) -> set[Path]:
    """Files that a page links to, relative to the repository."""
    targets = [
        (ROOT / page.parent / link).resolve() for link in LINK.findall((ROOT / page).read_text(encoding="utf-8"))
    ]
    return {target.relative_to(ROOT) for target in targets if target.is_file()}


def build(site: Path) -> None:
    """Write the site. Raises: CalledProcessError where a link leads nowhere."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "pages"
        for file in set(pages()).union(*(linked(page) for page in pages())):
            (source / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / file, source / file)
        config = Path(folder) / "mkdocs.yml"
        config.write_text((ROOT / "docs/mkdocs.yml").read_text(encoding="utf-8"), encoding="utf-8")
        command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--config-file", str(config)]
        quiet = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
        subprocess.run([*command, "--site-dir", str(site.resolve())], env=quiet, check=True)
    for page in site.rglob("*.html"):
        page.write_text(FOREIGN.sub("", page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    build(Path(sys.argv[1]))
