"""Which keys of an entry are honoured, which are passed on to litellm, and which are named. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from router.settings.litellm_file.entries import SAID, Entry
from router.settings.price_sections import is_price

DEFAULTS = frozenset({"temperature", "top_p", "stop", "seed", "user"})
DEFAULTS |= {"presence_penalty", "frequency_penalty", "logit_bias", "logprobs", "top_logprobs", "response_format"}
DEFAULTS |= {"tools", "tool_choice", "parallel_tool_calls", "reasoning_effort", "thinking", "verbosity", "modalities"}
DEFAULTS |= {"service_tier", "top_k", "min_p", "min_tokens", "repetition_penalty", "chat_template_kwargs"}
DEFAULTS |= {  # fields of a request: what the file gives holds where the client sets none
    *("enable_thinking", "think", "stop_token_ids", "num_ctx", "keep_alive"),
}
LIMITS = {"rpm": "requests_per_minute", "tpm": "tokens_per_minute"}
_ADDRESS = {"model", "api_base", "base_url", "api_key", "custom_llm_provider"}
_INFO = {"base_model", "mode", "max_input_tokens", "max_output_tokens", "supports_vision", "supports_function_calling"}
_LARGEST = ("max_parallel_requests", "num_retries", "timeout")  # one for all replicas
_TAKEN = {*_LARGEST, "stream_timeout", "extra_body", "additional_drop_params", "drop_params"}
_BUDGETS = {"max_budget", "budget_duration"}
_HERE = _ADDRESS | _INFO | _TAKEN | _BUDGETS | DEFAULTS | {*LIMITS, "weight", "order", "max_tokens"}
_NO_EFFECT = {  # litellm would call whom nobody prices
    *("fallbacks", "context_window_fallbacks", "content_policy_fallbacks", "context_window_fallback_dict"),
}
_NO_EFFECT |= {"tags", "cooldown_time", "max_retries", "use_in_pass_through", "litellm_credential_name"}
_NO_EFFECT |= {  # of LiteLLM's router and proxy; its library would send some of them to the provider
    *("rpd", "tpd", "itpm", "otpm", "default_api_key_rpm_limit", "default_api_key_tpm_limit", "allowed_model_region"),
    *("retry_policy", "routing_strategy", "guardrails", "tag_regex", "silent_model", "mock_timeout", "tiered_pricing"),
    *("configurable_clientside_auth_params", "max_file_size_mb", "prompt_id", "prompt_variables", "prompt_version"),
    *("prompt_label", "litellm_system_prompt", "enable_tag_filtering", "caching_groups", "cache", "caching", "ttl"),
    *("litellm_disabled_callbacks", "turn_off_message_logging", "vector_store_id", "stream_chunk_size", "blocked"),
    *("fastest_response", "max_fallbacks", "model_alias_map", "search_tool_name", "kubernetes_pod_discovery"),
    *("timeout_by_service_tier", "stream_timeout_by_service_tier", "client_side_timeout", "retry_strategy"),
    *("enable_json_schema_validation", "daily_reset_time", "vector_store_ids", "region_name", "metadata"),
    *("model_info", "model_list", "no-log", "prompt_environment", "bucket_name", "provider_affinity_header"),
    *("keepalive_seconds", "allow_client_keepalive_override", "humanloop_api_key", "wandb_api_key"),
    *(
        "litellm_metadata",
        "litellm_session_id",
        "litellm_trace_id",
        "aws_batch_role_arn",
        "log_client_error_tracebacks",
    ),
}
_OF_OTHERS = re.compile(  # routers in the router, loggers, stores of batches and vectors
    r"(auto|adaptive|complexity|quality|switchyard)_router_\w+|(langfuse|langsmith|arize|dd|posthog|newrelic|signoz)_\w+"
    r"|(weave|s3|gcs|milvus|valkey)_\w+|\w*cost_per_\w+|\w+_token_cost\w*|\w+_uplift_multiplier\w*"
)
_INFORMS = (
    _INFO
    | SAID
    | {
        "deprecation_date",
        "id",
        "access_groups",
        "enable_tag_filtering",
        "supported_environments",
        "db_model",
        "description",
        "max_tokens",
        "blocked",
        *LIMITS,
    }
)


def is_passed_on(key: str) -> bool:
    """Whether litellm gets a parameter of an entry as it is."""
    return key not in _HERE and not is_price(key) and not _is_mute(key)


def unused(entry: Entry, *, direct: bool, by_tags: bool) -> Iterator[str]:
    """Every key of an entry that has no effect. `direct`: litellm is not asked."""
    path = f"{entry.path}.litellm_params"
    kept = _HERE - {"drop_params"} | {"extra_headers"}
    for key in sorted(entry.params):
        if key == "tags" and by_tags:
            continue
        if key == "litellm_credential_name":
            yield f"{path}.{key}: credential_list has none of this name"
        elif not is_price(key) and (key not in kept if direct else _is_mute(key)):
            yield f"{path}.{key}: has no effect here"
    if entry.params.get("timeout") and entry.params.get("stream_timeout"):
        yield f"{path}.stream_timeout: has no effect here beside timeout"
    for key in sorted(set(entry.info) - _INFORMS):
        if not is_price(key):
            yield f"{entry.path}.model_info.{key}: has no effect here"


def unshared(entries: Sequence[Entry], *, direct: bool) -> Iterator[str]:
    """What one replica says, and holds for all of them or for none."""
    first = entries[0]
    for each in entries:
        for key in LIMITS:
            if (section := _stated(each, key)) and not all(_stated(other, key) for other in entries):
                yield f"{each.path}.{section}.{key}: has no effect here, since not every entry of {each.name!r} has one"
    for each in entries[1:]:
        one_s = DEFAULTS | {
            "extra_body",
            "additional_drop_params",
            "max_tokens",
            *(["extra_headers"] if direct else []),
        }
        for key in sorted(one_s & {*first.params, *each.params}):
            if first.params.get(key) != each.params.get(key):
                where, what = f"{each.path}.litellm_params.{key}", f"{first.path}.litellm_params.{key}"
                yield f"{where}: the first entry's holds for every replica ({what})"
        for key in _LARGEST:
            if first.params.get(key) != each.params.get(key):
                yield f"{each.path}.litellm_params.{key}: the largest of all entries of {each.name!r} holds for each"


def _stated(entry: Entry, key: str) -> str | None:
    """The section of an entry that holds a key."""
    sections = {"litellm_params": entry.params, "model_info": entry.info}
    return next((name for name, given in sections.items() if given.get(key)), None)


def _is_mute(key: str) -> bool:
    return key in _NO_EFFECT or (not is_price(key) and _OF_OTHERS.fullmatch(key) is not None)
