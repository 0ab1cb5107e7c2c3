"""DSPy: a language model called as DSPy calls it."""

import os

import dspy
from checks import check, done

with check("call"):
    lm = dspy.LM(
        f"openai/{os.environ['MODEL']}",
        api_base=os.environ["OPENAI_BASE_URL"],
        api_key=os.environ["OPENAI_API_KEY"],
        cache=False,
        num_retries=0,
    )
    assert lm("hello there")[0]
with check("chat"):
    assert lm(messages=[{"role": "user", "content": "hello there"}])[0]
done()
