"""The verb that writes a first settings file, from flags or from four questions."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from router.errors import SettingsError

Verbs = Any  # argparse gives its subparsers no public type
PATIENCE_S = 3.0
QUESTIONS = (
    ("engine", "Addresses of OpenAI-compatible servers, e.g. http://127.0.0.1:8000 (empty: none)"),
    ("provider", "Provider models, e.g. openai/gpt-4o-mini anthropic/claude-3-5-haiku-latest (empty: none)"),
    ("budget", "What all of it may cost, e.g. 5 USD per day (empty: no limit)"),
    ("preference", "Cheap or good, from 0 (cheapest) to 1 (best) (empty: 0.5)"),
)
Ask = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class Wishes:
    """What somebody wants to begin with."""

    engines: tuple[str, ...] = ()
    providers: tuple[str, ...] = ()  # models as litellm names them
    budget: str = ""
    preference: float = 0.5
    port: int = 8080


def add_verbs(verbs: Verbs) -> None:
    """Add init."""
    init = verbs.add_parser("init", help="write a first settings file, from flags or from four questions")
    init.add_argument("--out", type=Path, default=Path("pointsman.yaml"), help="the file (default pointsman.yaml)")
    init.add_argument("--engine", action="append", metavar="URL", help="an OpenAI-compatible server; again for others")
    init.add_argument("--provider", action="append", metavar="MODEL", help="e.g. openai/gpt-4o-mini; again for others")
    init.add_argument("--budget", help="e.g. '5 USD per day'")
    init.add_argument("--preference", type=float, help="0 cheapest … 1 best (default 0.5)")
    init.add_argument("--port", type=int, default=8080, help="to listen on (default 8080)")
    init.add_argument("--force", action="store_true", help="write over a file that is there")
    init.set_defaults(run=_init)


def _init(arguments: argparse.Namespace) -> int:
    from router.settings.extras import command_name, install_line, missing  # noqa: PLC0415

    out: Path = arguments.out
    if out.exists() and not arguments.force:
        raise SettingsError(f"{out} is there already: --force writes over it, --out names another", param=str(out))
    wishes = wished(arguments, input if sys.stdin.isatty() else None)
    text = settings_text(wishes, models_at)
    _check(text)
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"{out} cannot be written: {error.strerror}", param=str(out)) from None
    command, file = command_name(), shlex.quote(str(out))
    print(f"{out} is written. What it would run, what is wrong here, and the gateway:\n")
    if wishes.providers and "providers" in missing():
        print(f"  {install_line(['providers'])}")
    for name in key_names(wishes.providers):
        print(f"  export {name}=…")
    print(f"  {command} check {file}\n  {command} doctor {file}\n  {command} serve --config {file}")
    return 0


def wished(arguments: argparse.Namespace, ask: Ask | None) -> Wishes:
    """By flags; by answers to four questions where no flag is given and somebody is there to answer."""
    given = {name: getattr(arguments, name) for name, _ in QUESTIONS}
    if ask is not None and all(value is None for value in given.values()):
        answers = {name: _answer(name, question, ask) for name, question in QUESTIONS}
        given = {name: text.replace(",", " ").split() if name in ("engine", "provider") else text
                 for name, text in answers.items()}  # fmt: skip
    return Wishes(
        engines=tuple(map(_with_scheme, given["engine"] or ())),
        providers=tuple(given["provider"] or ()),
        budget=given["budget"] or "",
        preference=_number(given["preference"]),
        port=arguments.port,
    )


def _answer(name: str, question: str, ask: Ask) -> str:
    """An answer that can be; what is wrong with any other is said, and the question asked again."""
    while True:
        text = ask(f"{question}\n> ").strip()
        try:
            _number(text if name == "preference" else None)
            _check(settings_text(Wishes(budget=text if name == "budget" else ""), lambda _: []))
        except SettingsError as error:
            print(error.message.rpartition("]: ")[2])
        else:
            return text


def _number(text: str | float | None) -> float:
    """Raises: SettingsError."""
    try:
        number = 0.5 if text in (None, "") else float(text or 0)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise SettingsError(f"the preference is {text!r}, expected a number from 0 to 1", param="preference")
    return number


def _with_scheme(address: str) -> str:
    return address if "://" in address else f"http://{address}"


def _check(text: str) -> None:
    """What is written runs, but for keys and extras that are not there yet. Raises: SettingsError."""
    import yaml  # noqa: PLC0415

    from router.settings import build  # noqa: PLC0415
    from router.settings.listed import Listed  # noqa: PLC0415
    from router.types import NanoUsd, Price  # noqa: PLC0415

    class _Any(dict[str, str]):
        def __missing__(self, name: str) -> str:
            return "a-key-long-enough"

        def __contains__(self, name: object) -> bool:
            return True

    build(yaml.safe_load(text), _Any(), listed=lambda _: Listed(Price(NanoUsd(1), NanoUsd(1))))


def models_at(url: str) -> list[str]:
    """What an engine serves; nothing where it does not say so now."""
    address = f"{url.rstrip('/').removesuffix('/v1')}/v1/models"
    try:
        with urllib.request.urlopen(address, timeout=PATIENCE_S) as answer:
            return [str(each["id"]) for each in json.load(answer)["data"]]
    except (OSError, HTTPException, ValueError, KeyError, TypeError):
        return []


def key_names(providers: Sequence[str]) -> list[str]:
    """Variables of the environment that hold the providers' keys."""
    return [f"{prefix.upper().replace('-', '_')}_API_KEY" for prefix in prefixes(providers)]


def prefixes(providers: Sequence[str]) -> list[str]:
    """The providers of models."""
    return list(dict.fromkeys(model.partition("/")[0] if "/" in model else "openai" for model in providers))


def settings_text(wishes: Wishes, models: Callable[[str], list[str]]) -> str:
    """The settings file, with comments. `models` asks an engine what it serves."""
    return "\n".join([*_head(wishes), *_backends(wishes, models), *_money(wishes)]) + "\n"


def _head(wishes: Wishes) -> Iterator[str]:
    yield "# Settings of Pointsman. Every key: docs/settings.md; whatever is left out has its default there."
    yield "# A changed file is taken up while the gateway runs, without dropping a stream."
    yield ""
    yield "server:"
    yield "  host: 127.0.0.1   # 0.0.0.0 lets other machines in"
    yield f"  port: {wishes.port}"
    yield ""
    yield "# The database, learned state and the first key; a relative folder lies beside this file."
    yield "state_dir: pointsman-state"
    yield ""


def _backends(wishes: Wishes, models: Callable[[str], list[str]]) -> Iterator[str]:
    if not wishes.engines and not wishes.providers:
        yield "# The packaged models: small tasks on the CPU, no download. Put your own engines here instead, e.g."
        yield '#   big: {kind: vllm, url: "http://gpu-1:8000", discover: true}'
        yield "backends:"
        yield "  family: {kind: embedded}"
        return
    served = {f"engine-{number}": (url, models(url)) for number, url in enumerate(wishes.engines, 1)}
    yield "# Where models are: any OpenAI-compatible server is of the kind vllm, any provider of the kind litellm."
    yield "backends:"
    for name, (url, _) in served.items():
        yield f"  {name}: {{kind: vllm, url: {json.dumps(url)}, discover: true}}   # {urlsplit(url).netloc}"
    for prefix, variable in zip(prefixes(wishes.providers), key_names(wishes.providers), strict=True):
        yield f'  {prefix}: {{kind: litellm, api_key: "${{{variable}}}"}}   # from the environment'
    yield ""
    yield from _models(wishes, served)


def _models(wishes: Wishes, served: dict[str, tuple[str, list[str]]]) -> Iterator[str]:
    if served:
        yield "# What a million tokens cost of a model that nothing else prices, in USD: put what your machines cost."
        yield "default_price: {prompt: 0.10, completion: 0.40}"
        yield ""
    yield "# Candidates. Engines tell of theirs by themselves; an entry adds what they do not know."
    yield "models:" if wishes.providers or any(names for _, names in served.values()) else "models: []"
    for engine, (_, names) in served.items():
        for name in names:
            price = "price: {prompt: 0.10, completion: 0.40}"
            yield f"  - {{name: {json.dumps(name)}, backend: {engine}, {price}}}   # USD per million tokens: put yours"
    for model in wishes.providers:
        backend = prefixes([model])[0]
        yield f"  - {{name: {json.dumps(model.partition('/')[2] or model)}, backend: {backend}, upstream: {model}}}"


def _money(wishes: Wishes) -> Iterator[str]:
    yield ""
    yield "# Cheap or good: 0 is the cheapest answer, 1 the best, for whoever says nothing else."
    yield f"preference: {wishes.preference:g}"
    yield ""
    yield "# Who pays. Callers need a key: the first start makes one of the tenant `default` and prints it."
    yield "tenants:"
    if wishes.budget:
        yield f"  default: {{budgets: [{json.dumps(wishes.budget)}]}}   # 'soft' at the end only warns"
    else:
        yield '  default: {}   # e.g. {budgets: ["5 USD per day", "100 USD per month"]}'
    yield ""
    yield "# The admin API, and all of the page but Try, want this key, or one that this makes:"
    yield "#   pointsman keys create ops --admin --config THIS_FILE"
    yield '# auth: {admin_key: "${POINTSMAN_ADMIN_KEY}"}'
