"""Anthropic's own SDK for Python: messages, streams, tools, images, counting tokens, errors."""

import os

import anthropic
from checks import check, done

client = anthropic.Anthropic()
MODEL = os.environ["MODEL"]
ASK = [{"role": "user", "content": "hello there"}]
TOOL = {
    "name": "weather",
    "description": "of a city",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}

with check("messages"):
    answer = client.messages.create(model=MODEL, max_tokens=60, messages=ASK, system="Be brief.")
    assert answer.content[0].text
    assert answer.usage.output_tokens > 0
with check("request id"):
    assert client.messages.with_raw_response.create(model=MODEL, max_tokens=60, messages=ASK).headers["request-id"]
with check("stream"):
    with client.messages.stream(model=MODEL, max_tokens=60, messages=ASK) as stream:
        assert "".join(stream.text_stream)
        assert stream.get_final_message().stop_reason
with check("tools"):
    answer = client.messages.create(model=MODEL, max_tokens=60, messages=ASK, tools=[TOOL], tool_choice={"type": "any"})
    use = next(block for block in answer.content if block.type == "tool_use")
    result = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": use.id, "content": "rain"}]}
    more = [*ASK, {"role": "assistant", "content": answer.content}, result]
    assert "rain" in client.messages.create(model=MODEL, max_tokens=60, messages=more, tools=[TOOL]).content[0].text
with check("streamed tools"):
    with client.messages.stream(
        model=MODEL, max_tokens=60, messages=ASK, tools=[TOOL], tool_choice={"type": "any"}
    ) as stream:
        message = stream.get_final_message()
    assert message.stop_reason == "tool_use"
    assert "city" in next(block for block in message.content if block.type == "tool_use").input
with check("count_tokens"):
    assert client.messages.count_tokens(model=MODEL, messages=ASK).input_tokens > 0
with check("unknown model is a 404"):
    try:
        client.messages.create(model="no-such-model", max_tokens=6, messages=ASK)
        raise AssertionError("it answered")
    except anthropic.NotFoundError as error:
        assert error.body["type"] == "error"
done()
