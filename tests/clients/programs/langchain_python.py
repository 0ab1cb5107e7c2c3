"""LangChain's chat models over OpenAI's and Anthropic's APIs: invoke, stream, async, tools, structured output."""

import asyncio
import os

from checks import check, done
from langchain_anthropic import ChatAnthropic
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

MODEL = os.environ["MODEL"]


class City(BaseModel):
    """A city."""

    name: str
    people: int


@tool
def weather(city: str) -> str:
    """Of a city."""
    return f"rain in {city}"


models = {
    "chat": ChatOpenAI(model=MODEL, max_retries=0),
    "responses": ChatOpenAI(model=MODEL, max_retries=0, use_responses_api=True),
    "messages": ChatAnthropic(model=MODEL, max_tokens=60, max_retries=0),
}
loop = asyncio.Runner()
for name, model in models.items():
    with check(f"{name}: invoke"):
        answer = model.invoke("hello there")
        assert answer.text
        assert answer.usage_metadata["total_tokens"] > 0
    with check(f"{name}: stream"):
        assert "".join(chunk.text for chunk in model.stream("hello there"))
    with check(f"{name}: async"):
        assert loop.run(model.ainvoke("hello there")).text  # its clients belong to one loop
    with check(f"{name}: tools"):
        bound = model.bind_tools([weather])
        asked = HumanMessage("hello there")
        said = bound.invoke([asked])
        assert said.tool_calls
        call = said.tool_calls[0]
        result = ToolMessage(weather.invoke(call["args"]), tool_call_id=call["id"])
        assert "rain" in bound.invoke([asked, said, result]).text
    with check(f"{name}: structured output"):
        assert model.with_structured_output(City).invoke("hello there").people == 7
done()
