"""Judge answers, so that the gateway learns who is good at what.

POINTSMAN_KEY=sk-… python examples/feedback.py
"""

import os

import httpx
from openai import OpenAI

URL, KEY = os.environ.get("POINTSMAN_URL", "http://127.0.0.1:8080"), os.environ["POINTSMAN_KEY"]
client = OpenAI(base_url=f"{URL}/v1", api_key=KEY)
QUESTIONS = {"What is 17 + 25?": "42", "What is 9 + 8?": "17", "What is 50 - 8?": "42", "What is 31 + 11?": "42"}

with httpx.Client(base_url=URL, headers={"Authorization": f"Bearer {KEY}"}) as gateway:
    for question, right in QUESTIONS.items():
        raw = client.chat.completions.with_raw_response.create(
            model="auto", messages=[{"role": "user", "content": question}]
        )
        answer = raw.parse()
        score = float(right in (answer.choices[0].message.content or ""))
        body = {"decision_id": raw.headers["x-pointsman-decision-id"], "score": score}
        gateway.post("/v1/feedback", json=body).raise_for_status()
        print(f"{question} {answer.model} scored {score:g}")
    decision = gateway.get(f"/v1/decisions/{body['decision_id']}").raise_for_status().json()
    print("what the gateway keeps of the last one:", ", ".join(sorted(decision)))
