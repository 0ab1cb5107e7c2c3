"""Runs clients that no one here wrote against a gateway, and writes docs/clients.md: `python -m tests.clients.run`.

Each client has an environment of its own under .cache/clients. A row is written as soon as it is there, and `--missing`
goes on where a run was cut. How it fails: exit 1 where a check fails that passes
straight at the engine; a client that cannot be installed here is named in the table and fails nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from research.provenance import provenance
from tests.clients.clients import CLIENTS, Client
from tests.clients.engine import serve
from tests.clients.environments import CannotInstall, node_of, python_of, source_of
from tests.clients.listening import listening

PROGRAMS = Path(__file__).parent / "programs"
PAGE = Path(__file__).parents[2] / "docs" / "clients.md"
BEGIN, END = "<!-- made by python -m tests.clients.run -->", "<!-- end -->"
KEY = "sk-of-a-client"
MODELS = ("talker", "by-litellm", "family")
FAMILY = "family"  # the packaged models, for clients with prompts that 512 bytes may hold
LONG = 25  # checks
START_S = 600.0  # on a machine that does much else
Checks = list[dict[str, Any]]
Row = tuple[str, dict[str, Checks]]


@contextlib.contextmanager
def gateway(folder: Path, engine_url: str, *, unknown: str | None = None) -> Iterator[str]:
    """The address of a gateway before a chat-only engine, called directly and through litellm, and the packaged models.

    `unknown` is the model that every other name means.
    """
    model = {
        "price": {"prompt": 1, "completion": 4},
        "context_tokens": 200_000,
        "capabilities": ["chat", "tools", "vision"],
    }
    settings = {
        "state_dir": str(folder / "state"),
        "backends": {
            "direct": {"kind": "vllm", "url": engine_url},
            "library": {"kind": "litellm", "url": f"{engine_url}/v1", "api_key": "none"},
            "packaged": {"kind": "embedded"},
        },
        "model_map": {FAMILY: "large@4bit"},
        "models": [
            {"name": "talker", "backend": "direct", **model},
            {"name": "by-litellm", "backend": "library", "upstream": "openai/talker", **model},
        ],
        "tenants": {"t": {"keys": [{"secret": KEY}]}},
    }
    if unknown is not None:
        settings["unknown_model"] = {FAMILY: "large@4bit"}.get(unknown, unknown)
    config, log = folder / "pointsman.yaml", folder / "gateway.log"
    config.write_text(json.dumps(settings))
    command = [sys.executable, "-m", "pointsman", "serve", "--config", str(config), "--port", "0"]
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
    try:
        yield _address(process, log)
    finally:
        process.terminate()
        process.wait(40)


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        _, up, rest = log.read_text().partition("Pointsman is up at ")
        if up and "\n" in rest:
            return rest.split()[0]
        time.sleep(0.1)
    raise RuntimeError(f"the gateway did not start:\n{log.read_text()}")


def run(client: Client, url: str, model: str) -> Checks:
    """What the client's program says of each thing it tried. Raises: CannotInstall."""
    env = {
        **os.environ,
        "MODEL": model,
        "ROOT_URL": url,
        "OPENAI_BASE_URL": f"{url}/v1",
        "ANTHROPIC_BASE_URL": url,
        "OPENAI_API_KEY": KEY,
        "ANTHROPIC_API_KEY": KEY,
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    }
    with tempfile.TemporaryDirectory() as folder:
        if client.node:
            home = node_of(client.node)
            for file in PROGRAMS.glob("*.mjs"):  # a module is looked for beside the program that wants it
                shutil.copy(file, home / file.name)
            command = ["node", str(home / client.script)]
        else:
            home = python_of(client.python)
            command = [str(home), str(PROGRAMS / client.script)]
        if client.source:
            env["SOURCE"] = str(source_of(home, client.source))
        if client.script.endswith(".sh"):
            command = ["bash", str(PROGRAMS / client.script), str(home)]
        done = subprocess.run(
            command,
            env=env,
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=300 if not client.source else 1800,
        )
    checks = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return checks or [{"check": "start", "ok": False, "why": done.stderr[-400:]}]


def heard(client: Client, url: str, model: str) -> Checks:
    """The same, and whether every answer that the client got is as OpenAI and Anthropic publish it."""
    with listening(url) as (address, answers):
        checks = run(client, address, model)
    why = f"{len(answers.complaints)} of {answers.answers}: {(answers.complaints or [''])[0]}"
    return [*checks, {"check": "answers as published", "ok": not answers.complaints, "why": why}]


def rows(clients: Sequence[Client], url: str, engine_url: str) -> Iterator[Row]:
    """What each client found with each model."""
    for client in clients:
        found: dict[str, Checks] = {}
        for model in MODELS if client.short else MODELS[:2]:
            try:
                if client.source:  # its names are OpenAI's, and mean this model
                    with tempfile.TemporaryDirectory() as own, gateway(Path(own), engine_url, unknown=model) as mapped:
                        found[model] = heard(client, mapped, model)
                else:
                    found[model] = heard(client, url, model)
            except (CannotInstall, subprocess.TimeoutExpired) as problem:
                found[model] = [{"check": "install or time", "ok": None, "why": str(problem)}]
        yield client.name, found


def table(found: Sequence[Row]) -> str:
    """As docs/clients.md shows it."""
    lines = [f"| client | tried | {' | '.join(MODELS)} | what failed |", f"|---|---|{'---|' * len(MODELS)}---|"]
    for client, checks in found:
        said = "; ".join(_failed(checks)).replace("|", "/").replace("\n", " ") or "–"
        passed = [_passed(checks.get(model)) for model in MODELS]
        lines.append(f"| {client} | {tried(checks[MODELS[0]])} | {' | '.join(passed)} | {said} |")
    return "\n".join(lines)


def _failed(checks: dict[str, Checks]) -> Iterator[str]:
    """What failed; of the packaged models also what says nothing of the gateway, by the reason."""
    for model, of_model in checks.items():
        for each in of_model:
            if each["ok"] is False or (each["ok"] is None and model != FAMILY):
                yield f"{model}, {each['check']}: {each['why'][:90]}"
        untold: dict[str, list[str]] = {}
        for each in of_model:
            if each["ok"] is None and model == FAMILY:
                untold.setdefault(each["why"], []).append(each["check"])
        yield from (f"{model}, {why}: {', '.join(names)}" for why, names in untold.items())


def _passed(checks: Checks | None) -> str:
    return "–" if checks is None else f"{sum(bool(each['ok']) for each in checks)} of {len(checks)}"


def tried(checks: Checks) -> str:
    """The names of the checks, those of several protocols together; of a long suite only how many."""
    groups: dict[str, list[str]] = {}
    for each in checks:
        group, _, name = each["check"].rpartition(": ")
        groups.setdefault(group, []).append(name)
    if len(checks) > LONG:
        return f"{len(checks)} checks"
    return "; ".join((f"{group}: " if group else "") + ", ".join(names) for group, names in groups.items())


def write(found: Sequence[Row], made: str) -> None:
    """Put these rows, and by what they were made, into the page: in place of earlier ones of the same clients."""
    head, _, rest = PAGE.read_text().partition(BEGIN)
    old, _, after = rest.partition(END)
    lines = table(found).splitlines()
    kept = {_who(line): line for line in (*old.splitlines()[3:], *lines[2:]) if line.startswith("|")}
    PAGE.write_text("\n".join([f"{head}{BEGIN}", *lines[:2], *kept.values(), "", made, f"{END}{after}"]))


def shown() -> set[str]:
    """The clients that have a row."""
    return {_who(line) for line in PAGE.read_text().splitlines() if line.startswith("| ")}


def _who(line: str) -> str:
    """The client of a row."""
    return line.split("|")[1].strip()


def main() -> int:
    """Run the clients and write the page; 1 where a check failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the three that every run has; writes no page")
    parser.add_argument(
        "--only", nargs="*", default=[], help="clients whose name holds one of these words; others' rows stay"
    )
    parser.add_argument("--missing", action="store_true", help="only clients that have no row yet")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    clients = [each for each in CLIENTS if each.quick or not options.quick]
    if options.only:
        clients = [each for each in clients if any(word.lower() in each.name.lower() for word in options.only)]
    if options.missing:
        clients = [each for each in clients if each.name not in shown()]
    if not options.inside:
        return in_own_network(clients)
    made, begun_at = provenance(), time.monotonic()  # before a row changes the page, and so the working tree
    server = serve()
    os.environ["ENGINE_URL"] = f"http://127.0.0.1:{server.server_port}/v1"
    found = []
    with tempfile.TemporaryDirectory() as folder:
        with gateway(Path(folder), f"http://127.0.0.1:{server.server_port}") as url:
            for row in rows(clients, url, f"http://127.0.0.1:{server.server_port}"):
                found.append(row)
                print(table([row]).splitlines()[-1], flush=True)
                if not options.quick:
                    write([row], made)
    every = [each for _, checks in found for of_model in checks.values() for each in of_model]
    failed = sum(each["ok"] is False for each in every)
    took_min = (time.monotonic() - begun_at) / 60
    print(f"{sum(bool(each['ok']) for each in every)} passed, {failed} failed, in {took_min:.1f} minutes")
    return 1 if failed else 0


def in_own_network(clients: Sequence[Client]) -> int:
    """Run the same once more where nothing but this machine's loopback can be reached, if that is allowed here.

    The environments are made before, with the network there is.
    """
    for client in clients:
        with contextlib.suppress(CannotInstall):  # the row says why
            home = node_of(client.node) if client.node else python_of(client.python)
            if client.source:
                source_of(home, client.source)
    command = [sys.executable, "-m", "tests.clients.run", *sys.argv[1:], "--inside"]
    own = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
    try:
        allowed = subprocess.run([*own, "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        allowed = False
    print("in a network of its own" if allowed else "in this machine's network: no other is allowed here", flush=True)
    return subprocess.run([*own, *command] if allowed else command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
