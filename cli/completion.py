"""The verb that prints a shell's completion, made from the verbs and options as they are."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

Verbs = Any  # argparse gives its subparsers no public type
SHELLS = ("bash", "zsh", "fish")


def add_verbs(verbs: Verbs) -> None:
    """Add completion."""
    completion = verbs.add_parser("completion", help="print what completes verbs and options in a shell")
    completion.add_argument("shell", choices=SHELLS)
    completion.set_defaults(run=lambda arguments: _completion(arguments.shell, verbs))


def _completion(shell: str, verbs: Verbs) -> int:
    words = {"": sorted([*verbs.choices, "--help", "--version"])}
    for name, below in verbs.choices.items():
        words |= dict(words_after(below, name))
    print({"bash": bash, "zsh": zsh, "fish": fish}[shell](words))
    return 0


def words_after(parser: argparse.ArgumentParser, path: str) -> Iterator[tuple[str, list[str]]]:
    """(verbs so far, what may follow them: verbs, choices and options)."""
    words: list[str] = []
    for action in parser._actions:
        words += action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            words += action.choices
            for name, below in action.choices.items():
                yield from words_after(below, f"{path} {name}")
        elif action.choices and not action.option_strings:
            words += map(str, action.choices)
    yield path, sorted(words)


def bash(words: dict[str, list[str]]) -> str:
    """A function that looks the verbs so far up, and files where nothing else fits."""
    cases = "\n".join(f"    {path!r}) words={' '.join(found)!r} ;;" for path, found in sorted(words.items()))
    return f"""# source <(pointsman completion bash)
_pointsman() {{
  local current=${{COMP_WORDS[COMP_CWORD]}} path="" words="" word
  for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
    case "$word" in -*) break ;; esac
    path="${{path:+$path }}$word"
  done
  while :; do
    case "$path" in
{cases}
    esac
    [ -n "$words" ] && break
    case "$path" in *" "*) path=${{path% *}} ;; *) path="" ;; esac
  done
  COMPREPLY=($(compgen -W "$words" -- "$current"))
  [ ${{#COMPREPLY[@]}} -gt 0 ] || COMPREPLY=($(compgen -f -- "$current"))
}}
complete -o filenames -F _pointsman pointsman"""


def zsh(words: dict[str, list[str]]) -> str:
    """zsh reads bash's by its own module for that."""
    return f"autoload -U +X bashcompinit && bashcompinit\n{bash(words)}"


def fish(words: dict[str, list[str]]) -> str:
    """A line for each path."""
    lines = []
    for path, found in sorted(words.items()):
        verbs = path.split()
        seen = " ".join(f"; and __fish_seen_subcommand_from {verb}" for verb in verbs).removeprefix("; and ")
        when = seen or "__fish_use_subcommand"
        plain = [word for word in found if not word.startswith("-")]
        lines.append(f"complete -c pointsman -n '{when}' -a '{' '.join(plain)}'" if plain else "")
        lines += [f"complete -c pointsman -n '{when}' -l {word[2:]}" for word in found if word.startswith("--")]
    return "\n".join(["# pointsman completion fish | source", *filter(None, lines)])
