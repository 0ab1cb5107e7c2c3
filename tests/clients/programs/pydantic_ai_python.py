"""Pydantic AI: an agent with a tool and a typed result, over chat, responses and messages."""

import os

from checks import check, done
from pydantic import BaseModel
from pydantic_ai import Agent
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel

MODEL = os.environ["MODEL"]


class City(BaseModel):
    name: str
    people: int


for name, model in {
    "chat": OpenAIChatModel(MODEL),
    "responses": OpenAIResponsesModel(MODEL),
    "messages": AnthropicModel(MODEL),
}.items():
    with check(f"{name}: text"):
        assert Agent(model).run_sync("hello there").output
    with check(f"{name}: tool"):
        agent = Agent(model)

        @agent.tool_plain
        def weather(city: str) -> str:
            """Of a city."""
            return "rain"

        assert "rain" in agent.run_sync("hello there").output
    with check(f"{name}: typed"):
        assert Agent(model, output_type=City).run_sync("hello there").output.people == 7
done()
