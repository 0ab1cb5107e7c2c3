"""Ask through the gateway with OpenAI's client: one URL, `auto`, and what the gateway says of its choice.

POINTSMAN_KEY=sk-… python examples/ask.py "What is 17 + 25?"
"""

import os
import sys

from openai import OpenAI

url = os.environ.get("POINTSMAN_URL", "http://127.0.0.1:8080")
client = OpenAI(base_url=f"{url}/v1", api_key=os.environ["POINTSMAN_KEY"])
question = sys.argv[1] if len(sys.argv) > 1 else "What is 17 + 25?"

raw = client.chat.completions.with_raw_response.create(
    model="auto",
    messages=[{"role": "user", "content": question}],
    extra_body={"routing": {"preference": 0.3}},  # 0 cheapest … 1 best
)
answer = raw.parse()
print(f"{answer.model}: {answer.choices[0].message.content}")
print(f"decision {raw.headers['x-pointsman-decision-id']} cost {raw.headers['x-pointsman-cost-usd']} USD")

stream = client.chat.completions.create(
    model="auto:best", messages=[{"role": "user", "content": question}], stream=True
)
print("streamed:", "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices))
