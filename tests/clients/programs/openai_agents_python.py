"""OpenAI's Agents SDK: an agent with a tool, over responses and over chat."""

import os

from agents import Agent, OpenAIChatCompletionsModel, OpenAIResponsesModel, Runner, function_tool, set_tracing_disabled
from checks import check, done
from openai import AsyncOpenAI

set_tracing_disabled(True)


@function_tool
def weather(city: str) -> str:
    """Of a city."""
    return "rain"


for name, kind in (("responses", OpenAIResponsesModel), ("chat", OpenAIChatCompletionsModel)):
    with check(f"{name}: tool loop"):
        agent = Agent(
            name="a",
            instructions="Be brief.",
            tools=[weather],
            model=kind(model=os.environ["MODEL"], openai_client=AsyncOpenAI()),
        )
        assert "rain" in Runner.run_sync(agent, "hello there").final_output
done()
