"""instructor: typed answers by tools and by JSON."""

import os

import instructor
import openai
from checks import check, done
from pydantic import BaseModel


class City(BaseModel):
    name: str
    people: int


for mode in (instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA):
    with check(mode.name.lower()):
        client = instructor.from_openai(openai.OpenAI(), mode=mode)
        ask = [{"role": "user", "content": "hello there"}]
        assert (
            client.chat.completions.create(
                model=os.environ["MODEL"], messages=ask, response_model=City, max_retries=0
            ).people
            == 7
        )
done()
