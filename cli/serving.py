"""The verbs around a running gateway: serve, demo, route, programs, check."""

from __future__ import annotations

import argparse
import json
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from cli.config import add_config
from router.errors import PointsmanError

Verbs = Any  # argparse gives its subparsers no public type


def add_verbs(verbs: Verbs) -> None:
    """Add serve, demo, route, programs and check."""
    serve = verbs.add_parser("serve", help="start the gateway")
    add_config(serve, otherwise="the embedded family, on SQLite")
    serve.add_argument("--host", help="address to listen on (default: the settings')")
    serve.add_argument("--port", type=int, help="port to listen on (default: the settings'); 0 picks a free one")
    serve.add_argument("--workers", type=int, help="processes (default: the settings')")
    serve.add_argument("--model", metavar="FOLDER_OR_ID", help="a model of your own beside the family: a checkpoint, a "
                       "store, or OWNER/NAME of a hub; quantized once")  # fmt: skip
    serve.set_defaults(run=_serve)
    demo = verbs.add_parser("demo", help="send graded prompts through the gateway and print what came of them")
    _add_target(demo)
    demo.add_argument("--prompts", type=int, default=400, help="how many (default 400)")
    demo.add_argument("--preference", type=float, default=0.5, help="0 cheapest … 1 best (default 0.5)")
    demo.add_argument("--all-skills", action="store_true", help="all kinds of request instead of eight")
    demo.add_argument("--seed", type=int, default=0, help="which prompts (default 0)")
    demo.set_defaults(run=_demo)
    route = verbs.add_parser("route", help="print one decision with its evidence, without calling a model")
    route.add_argument("text", help="the query")
    route.add_argument("--model", default="auto", help="a model or a program by name, auto or auto:NAME (default auto)")
    route.add_argument("--preference", type=float, help="0 cheapest … 1 best")
    route.add_argument("--json", action="store_true", help="print the decision as JSON")
    _add_target(route)
    route.set_defaults(run=_route)
    programs = verbs.add_parser("programs", help="list the programs of a settings file: what they do and may cost")
    add_config(programs, "file")
    programs.set_defaults(run=_programs)
    check = verbs.add_parser("check", help="read a settings file and print what would run")
    add_config(check, "file", otherwise="the embedded family")
    check.add_argument("--offline", action="store_true", help="read the file alone: ask no engine and no store")
    check.set_defaults(run=_check)


def _add_target(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--url", help="a running gateway (default: http://127.0.0.1:8080, or a fresh one)")
    verb.add_argument("--key", help="its key (default: the first key of the state folder)")


def _serve(arguments: argparse.Namespace) -> int:
    from router.http.server import serve  # noqa: PLC0415  (each verb imports what it needs)

    config: Path | None = arguments.config
    if arguments.model is not None:
        config = _with_model(arguments.model, config)
    return serve(
        config,
        host=arguments.host,
        port=arguments.port,
        workers=arguments.workers,
        say=lambda text: print(text, flush=True),
    )


def _with_model(model: str, config: Path | None) -> Path:
    """Raises: PointsmanError."""
    from cli.model_beside import settings_beside  # noqa: PLC0415
    from router.settings import load  # noqa: PLC0415

    if config is not None:
        raise PointsmanError("--model goes with no settings file: name the model there, as a backend of kind embedded")
    return settings_beside(model, load(None).state_dir, say=lambda text: print(text, flush=True))


def _demo(arguments: argparse.Namespace) -> int:
    from rich.console import Console  # noqa: PLC0415

    from evaluation.demo import WORKLOAD, run  # noqa: PLC0415
    from evaluation.local_gateway import running_gateway  # noqa: PLC0415

    console = Console()
    with running_gateway(arguments.url, arguments.key, say=console.print) as (url, key):
        run(
            url,
            key,
            prompts=arguments.prompts,
            preference=arguments.preference,
            seed=arguments.seed,
            console=console,
            skills=None if arguments.all_skills else WORKLOAD,
        )
    return 0


def _route(arguments: argparse.Namespace) -> int:
    from rich.console import Console  # noqa: PLC0415

    from evaluation.explanation import evidence  # noqa: PLC0415
    from evaluation.local_gateway import running_gateway  # noqa: PLC0415

    body: dict[str, Any] = {
        "model": arguments.model,
        "messages": [{"role": "user", "content": arguments.text}],
    }
    if arguments.preference is not None:
        body["routing"] = {"preference": arguments.preference}
    with running_gateway(arguments.url, arguments.key, say=lambda _: None) as (url, key):
        decision = post(f"{url}/v1/route", key, body)
    if arguments.json:
        json.dump(decision, sys.stdout, indent=2, ensure_ascii=False)
        print()
    else:
        for part in evidence(decision):
            Console().print(part)
    return 0


def _programs(arguments: argparse.Namespace) -> int:
    from rich.console import Console  # noqa: PLC0415

    from evaluation.explanation import programs  # noqa: PLC0415
    from router.settings import load  # noqa: PLC0415

    Console().print(programs(load(arguments.file)))
    return 0


def post(url: str, key: str, body: dict[str, Any] | None, *, method: str = "POST") -> dict[str, Any]:
    """POST JSON to the gateway, or ask by another method. Raises: PointsmanError with the gateway's own message."""
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
    request = urllib.request.Request(url, None if body is None else json.dumps(body).encode(), headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            answer: dict[str, Any] = json.load(response)
            return answer
    except urllib.error.HTTPError as error:
        reported = json.loads(error.read() or b"{}").get("error", {}).get("message", error.reason)
        raise PointsmanError(f"{url} answered {error.code}: {reported}") from None
    except OSError as error:
        raise PointsmanError(f"no gateway answers at {url}: {error}") from None


def _check(arguments: argparse.Namespace) -> int:
    from router.catalogue.probing import silent_store, unreachable  # noqa: PLC0415
    from router.settings import describe, load  # noqa: PLC0415

    settings = load(arguments.file)
    print(describe(settings))
    if arguments.offline:
        return 0
    if (silent := silent_store(settings)) is not None:
        print(f"away      {silent}")
    for line in unreachable(settings):
        print(f"not routable  {line}")
    return 0 if silent is None else 2
