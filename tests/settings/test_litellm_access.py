"""Who may use what, and who is sent where, by a LiteLLM file: kept, or the start stops, or nobody is let in unasked."""

from __future__ import annotations

from typing import Any

import pytest

from router.errors import SettingsError
from router.settings import build
from tests.settings.test_litellm_keys import LISTED, entry, settings_of


@pytest.mark.parametrize("check", [{"custom_auth": "mine.check"}, {"enable_jwt_auth": True}])
def test_where_the_operators_own_check_does_not_run_callers_need_a_key(check: dict[str, Any]) -> None:
    settings = settings_of(entry(), general_settings=check)
    assert settings.anonymous() is None
    (key,) = check
    assert f"general_settings.{key}: is not run here, so callers need a key of this gateway" in settings.notes


def test_a_check_that_is_switched_off_asks_for_nothing() -> None:
    assert settings_of(entry(), general_settings={"enable_jwt_auth": False}).anonymous() is not None


@pytest.mark.parametrize(
    ("sections", "path"),
    [
        ({"general_settings": {"allowed_ips": ["10.0.0.1"]}}, "general_settings.allowed_ips"),
        (
            {"router_settings": {"enable_tag_filtering": True, "tag_filtering_match_any": False}},
            "router_settings.tag_filtering_match_any",
        ),
    ],
)
def test_a_limit_of_who_may_call_that_cannot_be_kept_stops_the_start(sections: dict[str, Any], path: str) -> None:
    with pytest.raises(SettingsError, match=f"^{path}: "):
        settings_of(entry(), **sections)


def test_an_empty_limit_is_none() -> None:
    assert settings_of(entry(), general_settings={"allowed_ips": None}).models


@pytest.mark.parametrize(
    "info", [{"team_id": "t-1"}, {"access_windows": [{"days": ["mon"], "start": "09:00", "end": "17:00"}]}]
)
def test_an_entry_for_one_team_or_certain_hours_is_for_nobody_here(info: dict[str, Any]) -> None:
    settings = settings_of(entry("b", info=info), entry())
    assert [each.name for each in settings.candidates()] == ["a"]
    (line,) = settings.unroutable
    assert f"model_list[0].model_info.{next(iter(info))}" in line


def test_groups_orders_and_tags_of_a_wrong_form_are_named() -> None:
    for key, wrong in (("access_groups", {"a": 1}), ("access_groups", [1])):
        with pytest.raises(SettingsError, match=rf"^model_list\[0\].model_info.{key}: got"):
            settings_of(entry(info={key: wrong}))
    with pytest.raises(SettingsError, match=r"^model_list\[0\].litellm_params.order: got"):
        settings_of(entry(order="first"))


def test_tags_do_nothing_where_the_router_does_not_look_at_them() -> None:
    settings = settings_of(entry(tags=["free"]), router_settings={"enable_tag_filtering": False})
    assert settings.candidates()[0].tags == ()
    assert "model_list[0].litellm_params.tags: has no effect here" in settings.notes


@pytest.mark.parametrize(
    ("here", "says"),
    [("production", None), ("staging", "LITELLM_ENVIRONMENT is staging"), (None, "LITELLM_ENVIRONMENT is not set")],
)
def test_an_entry_of_other_environments_is_not_called_in_this_one(here: str | None, says: str | None) -> None:
    entries = [entry("b", info={"supported_environments": ["production", "development"]}), entry()]
    settings = build({"model_list": entries}, {"LITELLM_ENVIRONMENT": here} if here else {}, listed=LISTED.get)
    assert {each.name for each in settings.candidates()} == ({"a"} if says else {"a", "b"})
    assert (says in str(settings.unroutable)) if says else not settings.unroutable
    assert not any("supported_environments" in note for note in settings.notes)
