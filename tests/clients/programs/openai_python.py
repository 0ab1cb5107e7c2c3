"""OpenAI's own SDK for Python: chat, streams, tools, structured output, responses, embeddings of no model, errors."""

import os

import openai
from checks import check, done
from pydantic import BaseModel

client = openai.OpenAI()
MODEL = os.environ["MODEL"]
ASK = [{"role": "user", "content": "hello there"}]
TOOL = {
    "name": "weather",
    "description": "of a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


class City(BaseModel):
    name: str
    people: int


with check("models"):
    assert MODEL in [model.id for model in client.models.list()]
with check("chat"):
    answer = client.chat.completions.create(model=MODEL, messages=ASK)
    assert answer.choices[0].message.content
    assert answer.usage.total_tokens > 0
with check("raw response headers"):
    raw = client.chat.completions.with_raw_response.create(model=MODEL, messages=ASK)
    assert raw.headers["x-request-id"]
    assert raw.headers["x-pointsman-decision-id"]
with check("stream"):
    with client.chat.completions.create(
        model=MODEL, messages=ASK, stream=True, stream_options={"include_usage": True}
    ) as s:
        chunks = list(s)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert chunks[-1].usage.total_tokens > 0
with check("tools"):
    answer = client.chat.completions.create(
        model=MODEL, messages=ASK, tools=[{"type": "function", "function": TOOL}], tool_choice="required"
    )
    call = answer.choices[0].message.tool_calls[0]
    more = [*ASK, answer.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": "rain"}]
    assert (
        "rain"
        in client.chat.completions.create(model=MODEL, messages=more, tools=[{"type": "function", "function": TOOL}])
        .choices[0]
        .message.content
    )
with check("structured output"):
    assert (
        client.chat.completions.parse(model=MODEL, messages=ASK, response_format=City).choices[0].message.parsed.people
        == 7
    )
with check("responses"):
    answer = client.responses.create(model=MODEL, input="hello there", instructions="Be brief.")
    assert answer.output_text
    assert answer.usage.total_tokens > 0
with check("responses stream"):
    with client.responses.stream(model=MODEL, input="hello there") as stream:
        kinds = [event.type for event in stream]
        assert stream.get_final_response().output_text
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"
with check("responses tools"):
    answer = client.responses.create(
        model=MODEL, input="hello there", tools=[{"type": "function", "strict": False, **TOOL}], tool_choice="required"
    )
    call = next(item for item in answer.output if item.type == "function_call")
    more = [
        {"role": "user", "content": "hello there"},
        *answer.output,
        {"type": "function_call_output", "call_id": call.call_id, "output": "rain"},
    ]
    assert (
        "rain"
        in client.responses.create(
            model=MODEL, input=more, tools=[{"type": "function", "strict": False, **TOOL}]
        ).output_text
    )
with check("responses structured output"):
    assert client.responses.parse(model=MODEL, input="hello there", text_format=City).output_parsed.people == 7
with check("previous_response_id"):
    first = client.responses.create(model=MODEL, input="hello there", store=True)
    assert client.responses.create(model=MODEL, input="and again", previous_response_id=first.id).output_text
with check("unknown model is a 404"):
    try:
        client.chat.completions.create(model="no-such-model", messages=ASK)
        raise AssertionError("it answered")
    except openai.NotFoundError as error:
        assert error.code == "model_not_found"
with check("a wrong key is a 401"):
    try:
        openai.OpenAI(api_key="sk-wrong").chat.completions.create(model=MODEL, messages=ASK)
        raise AssertionError("it answered")
    except openai.AuthenticationError as error:
        assert error.code == "invalid_api_key"
with check("azure client"):
    azure = openai.AzureOpenAI(
        azure_endpoint=os.environ["ROOT_URL"], api_version="2024-10-21", api_key=os.environ["OPENAI_API_KEY"]
    )
    assert azure.chat.completions.create(model=MODEL, messages=ASK).choices[0].message.content
done()
