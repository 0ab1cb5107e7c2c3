"""litellm as a client of the gateway, as of any OpenAI-compatible server and of Anthropic's API."""

import os

import litellm
from checks import check, done

ASK = [{"role": "user", "content": "hello there"}]
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
OPENAI = {
    "model": f"openai/{os.environ['MODEL']}",
    "api_base": os.environ["OPENAI_BASE_URL"],
    "api_key": os.environ["OPENAI_API_KEY"],
}
ANTHROPIC = {
    "model": f"anthropic/{os.environ['MODEL']}",
    "api_base": os.environ["ROOT_URL"],
    "api_key": os.environ["ANTHROPIC_API_KEY"],
    "max_tokens": 60,
}
for name, way in (("openai", OPENAI), ("anthropic", ANTHROPIC)):
    with check(f"{name}: completion"):
        assert litellm.completion(messages=ASK, **way).choices[0].message.content
    with check(f"{name}: stream"):
        assert "".join(
            chunk.choices[0].delta.content or "" for chunk in litellm.completion(messages=ASK, stream=True, **way)
        )
    with check(f"{name}: tools"):
        assert (
            litellm.completion(messages=ASK, tools=[TOOL], tool_choice="required", **way).choices[0].message.tool_calls
        )
with check("responses"):
    assert litellm.responses(input="hello there", **OPENAI).output
done()
