"""Who may call, by LiteLLM's file: what cannot be kept stops the start, or asks for a key in its place. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from router.settings.scalars import is_true
from router.settings.source import mapping_at

_CHECKS = ("custom_auth", "enable_jwt_auth", "enable_oauth2_auth", "enable_oauth2_proxy_auth")
_FOR_ALL = "take {path}.model_info.{key} away, and name it in allowed_models"
_SHUT = {
    "team_id": "it is for one team alone, which this file cannot know here",
    "access_windows": "it may be used at certain times alone, which is not kept here",
}
_ENVIRONMENT = "LITELLM_ENVIRONMENT"


class Shut(NamedTuple):
    """Why an entry is not for everybody, or not here, and what to do."""

    why: str
    remedy: str


def shut_by(info: Mapping[str, Any], path: str, env: Mapping[str, str]) -> Shut | None:
    """What keeps an entry from everybody, or from this gateway."""
    if info.get("blocked") is True:
        return Shut("the file blocks it", f"take {path}.model_info.blocked away")
    if (places := info.get("supported_environments")) is not None and env.get(_ENVIRONMENT) not in _listed(places):
        here = env.get(_ENVIRONMENT)
        where = f"{_ENVIRONMENT} is {here}" if here else f"{_ENVIRONMENT} is not set"
        return Shut(f"it is for {', '.join(_listed(places))} alone, and {where}", f"set {_ENVIRONMENT}")
    kept = ((key, why) for key, why in _SHUT.items() if info.get(key))
    return next((Shut(why, _FOR_ALL.format(path=path, key=key)) for key, why in kept), None)


def _listed(value: object) -> list[str]:
    return [str(each) for each in value] if isinstance(value, list | tuple) else [str(value)]


def own_check(general: Mapping[str, Any]) -> str | None:
    """The key by which the operator's own program, or somebody else's tokens, say who may call."""
    return next((key for key in _CHECKS if general.get(key) and (key == _CHECKS[0] or is_true(general[key]))), None)


def unguarded(tree: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Limits of who may call, or goes where, that nothing here keeps, as (path, what to do)."""
    if mapping_at(tree, "general_settings").get("allowed_ips"):
        yield (
            "general_settings.allowed_ips",
            "callers are not told apart by their address here, expected a firewall or a proxy that does, "
            "and this key left out",
        )
    router = mapping_at(tree, "router_settings")
    if is_true(router.get("enable_tag_filtering")) and not is_true(router.get("tag_filtering_match_any", True)):
        yield (
            "router_settings.tag_filtering_match_any",
            "servers take requests that share one tag with them here, expected true, or a server for each pair of tags",
        )
