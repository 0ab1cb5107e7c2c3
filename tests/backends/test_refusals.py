"""What engines say when they refuse, in their own words: what another model may take is told from a wrong request."""

from __future__ import annotations

import json

import pytest

from backends.unsupported import is_missing_path, is_too_long, is_unsupported

CANNOT = (  # vLLM 0.32
    '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set',
    'tool_choice="required" requires --tool-call-parser to be set',
    'tool_choice=function "weather" requires --tool-call-parser to be set',
    "Requested sample logprobs of 30, which is greater than max allowed: 20",
    "Requested prompt logprobs of 30, which is greater than max allowed: 20",
    "logprobs are not supported with gpt-oss models",
    "`prompt_logprobs` are not available when `stream=True`.",
    "You can only either use constraints for structured outputs or tools, not both.",
    "The provided JSON schema contains features not supported by xgrammar.",
    "No compatible structured output backend was found for this request. XGrammar rejected the constraint, and "
    "Guidance does not support this tokenizer. Configure a fast tokenizer or select a compatible backend explicitly.",
    "The JSON schema is nested too deeply: objects and arrays may nest at most 64 levels",
    "Structured outputs are not yet supported for diffusion language models. Remove the structured output constraint.",
    "The min_p and logit_bias sampling parameters are not yet supported with speculative decoding.",
    "n must be at most 64, got 100. To increase this limit, set the VLLM_MAX_N_SEQUENCES environment variable.",
    "n must be 1 when using greedy sampling, got 2.",
    "thinking_token_budget is set but reasoning_config is not configured. Please set --reasoning-parser and/or "
    "--reasoning-config to use thinking_token_budget.",
    "reasoning_effort='max' is not supported by Harmony",
    "At most 1 image(s) may be provided in one prompt.",
    "At most 0 audio(s) may be provided in one prompt.",
    "/models/llama is not a multimodal model",
    "The decoder prompt contains a(n) image item with 9000 embedding tokens, which exceeds the pre-allocated encoder "
    "cache size 4096. Please reduce the input size or increase the encoder cache size.",
    "Per-request mm_processor_kwargs are disabled by default because they can change multimodal preprocessing resource "
    "usage. Start the server with --trust-request-mm-kwargs only when clients are trusted.",
    "As of transformers v4.44, default chat template is no longer allowed, so you must provide a chat template if the "
    "tokenizer does not define one.",
    "Chat template does not support the 'developer' message role.",
    "Conversation roles must alternate user/assistant/user/assistant/...",
    "System role not supported",
    "This model does not support generation",
    "Got lora_request LoRARequest(lora_name='a') but LoRA is not enabled!",
    "This vLLM engine does not support `store=True` and therefore does not support the background mode.",
    "Custom tools with a grammar format are not supported; only free-form text custom tools are accepted.",
    # Ollama, llama.cpp, SGLang
    "registry.ollama.ai/library/gemma:2b does not support tools",
    "tools param requires --jinja flag",
    "image input is not supported - hint: if this is unexpected, you may need to provide the mmproj",
    # narrower than others: roles, parts of a message, addresses, stop lists, schemas, numbers
    "messages[0].role: unknown variant `developer`, expected one of `system`, `user`, `assistant`, `tool`",
    "[{'type': 'literal_error', 'loc': ('body', 'messages', 0, 'role'), 'msg': \"Input should be 'system', 'user', "
    "'assistant' or 'tool'\", 'input': 'developer'}]",
    "Unexpected message role: developer",
    "Invalid type for 'messages[0].content': expected a string, but got an array instead.",
    "messages[0]: data did not match any variant of untagged enum MessageContent",
    "messages.0.content: Input should be a valid string",
    "unknown content part type: input_audio",
    "Invalid content type. image_url is only supported by certain models.",
    "Only base64 data URLs are supported for images",
    "Failed to load image: remote images are disabled",
    "The URL must be from one of the allowed domains: []",
    "Invalid 'stop': array too long. Expected an array with maximum length 4, but got an array with length 6 instead.",
    "Number of stop sequences should not exceed 4",
    "`stop` supports up to 5 sequences",
    'Grammar error: Unimplemented keys: ["patternProperties"]',
    "failed to parse grammar",
    "Invalid schema for response_format 'n': In context=(), 'additionalProperties' is required to be supplied and to "
    "be false.",
    'value_error: `tool_choice` must either be a named tool, "auto", or "none".',
    "response_format json_schema cannot be used with tools",
    "Value error, parallel_tool_calls must be true",
    "n must be 1",
    "candidateCount must be 1",
    "n: Input should be less than or equal to 1",
    "Unknown name \"seed\" at 'generation_config': Cannot find field.",
    "logit_bias is not a valid parameter",
    "`logprobs` and `top_logprobs` are not allowed for reasoning models",
    "Invalid value for reasoning_effort: 'minimal'. Supported values are: 'low', 'medium', and 'high'.",
    "Expected last role User or Tool (or Assistant with prefix True) for serving but got assistant",
    "Cannot have 2 or more assistant messages at the end of the list.",
    "This response_format type is unavailable now",
    "max_tokens is too large: 99999. This model supports at most 16384 completion tokens",
    "max_tokens: 100000 > 8192, which is the maximum allowed number of output tokens for m",
    "`max_tokens` must be less than or equal to `8192`, the maximum value for `max_tokens` is less than the "
    "`context_window` for this model",
)
TOO_LONG = (
    "This model's maximum context length is 8192 tokens. However, your prompt contains at least 8193 input tokens, "
    "which exceeds this limit even without any output tokens. Please reduce the length of the input prompt.",
    "This model's maximum context length is 4096 tokens. However, your prompt contains 90000 characters (more than "
    "81920 characters, which is the upper bound for 4096 input tokens). Please reduce the length of the input prompt.",
    "'max_tokens' or 'max_completion_tokens' is too large: 9000. This model's maximum context length is 8192 tokens "
    "and your request has 20 input tokens (9000 > 8192 - 20).",
    "The decoder prompt (length 9000) is longer than the maximum model length of 8192. Make sure that `max_model_len` "
    "is no smaller than the number of text tokens.",
    "The decoder prompt (length 8192) plus the number of requested output tokens (at least 1) is longer than the "
    "maximum model length of 8192.",
    "request (9000 tokens) exceeds the available context size (8192 tokens), try increasing it",  # llama.cpp
    "The input (9000 tokens) is longer than the model's context length (8192 tokens).",  # SGLang
    "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000",  # TGI
    "prompt is too long: 210000 tokens > 200000 maximum",  # Anthropic
    "The input token count (2000000) exceeds the maximum number of tokens allowed (1048576).",  # Gemini
    "Prompt contains 40000 tokens and 0 draft tokens, too large for model with 32768 maximum context length",  # Mistral
)
NO_MODEL = (
    "The model `gone` does not exist.",
    "The model `gone` does not exist. Valid aliases: ['a', 'b'].",
    "LoRA adapter gone does not exist",
    "model 'gone' not found",
)
WRONG = (
    "temperature must be in [0, 2], got 3.",
    "max_tokens must be at least 1, got 0.",
    "`tools` must not be an empty array. Either provide at least one tool or omit the field entirely.",
    "When using `tool_choice`, `tools` must be set.",
    'Invalid value for `tool_choice`: x! Only named tools, "none", "auto" or "required" are supported.',
    "The tool specified in `tool_choice` does not match any of the specified `tools`",
    "Tool choice 'function' not found in 'tools' parameter.",
    "When response_format type is 'json_schema', the 'json_schema' field must be provided.",
    "Stream options can only be defined when `stream=True`.",
    "when using `top_logprobs`, `logprobs` must be set to true.",
    "Invalid JSON grammar specification.",
    "stop cannot contain an empty string.",
    "background can only be used when `store` is true",
    "top_p must be in (0, 1], got 7.",
)


def body(said: str, status: int = 400) -> bytes:
    return json.dumps({"error": {"message": said, "type": "BadRequestError", "param": None, "code": status}}).encode()


@pytest.mark.parametrize("said", CANNOT)
def test_what_an_engine_cannot_do_is_for_another_model(said: str) -> None:
    assert is_unsupported(400, body(said))
    assert not is_too_long(body(said))


@pytest.mark.parametrize(
    "said", ["The model does not support Chat Completions API", "The model does not support Responses API"]
)
def test_an_api_that_an_engine_does_not_have_is_for_another_model(said: str) -> None:
    assert is_unsupported(501, body(said, 501))
    assert is_missing_path(501, body(said, 501))


@pytest.mark.parametrize("said", TOO_LONG)
def test_what_is_too_long_for_an_engine_is_known_as_that(said: str) -> None:
    assert is_too_long(body(said))
    assert not is_unsupported(400, body(said))


@pytest.mark.parametrize("said", NO_MODEL)
def test_a_name_that_an_engine_does_not_know_is_neither_a_feature_nor_a_missing_path(said: str) -> None:
    assert not is_unsupported(404, body(said, 404))
    assert not is_missing_path(404, body(said, 404))


@pytest.mark.parametrize("said", WRONG)
def test_a_mistake_in_the_request_is_wrong_whoever_is_asked(said: str) -> None:
    assert not is_unsupported(400, body(said))
    assert not is_too_long(body(said))
