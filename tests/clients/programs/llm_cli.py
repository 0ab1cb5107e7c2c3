"""`llm`, the command-line tool: prompts, streams, a schema, a tool loop, a conversation that goes on."""

import json
import os
import subprocess
import sys
from pathlib import Path

from checks import check, done

HOME = Path("llm")
HOME.mkdir()
HOME.joinpath("extra-openai-models.yaml").write_text(
    json.dumps(
        [
            {
                "model_id": "mine",
                "model_name": os.environ["MODEL"],
                "api_base": os.environ["OPENAI_BASE_URL"],
                "api_key_name": "mine",
                "supports_tools": True,
                "supports_schema": True,
                "vision": True,
            }
        ]
    )
)
HOME.joinpath("keys.json").write_text(json.dumps({"mine": os.environ["OPENAI_API_KEY"]}))


def llm(*words):
    run = subprocess.run(
        [sys.executable, "-m", "llm", *words],
        check=False,
        env={**os.environ, "LLM_USER_PATH": str(HOME)},
        capture_output=True,
        text=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
    )
    assert run.returncode == 0, run.stderr[-300:]
    return run.stdout


with check("stream"):
    assert "hello there" in llm("-m", "mine", "hello there")
with check("plain"):
    assert "hello there" in llm("-m", "mine", "--no-stream", "hello there")
with check("conversation"):
    assert "and again" in llm("-c", "-m", "mine", "and again")
with check("schema"):
    assert json.loads(llm("-m", "mine", "--schema", "name, people int", "hello there"))["people"] == 7
with check("tool loop"):
    tool = 'def weather(city: str) -> str:\n    "Of a city."\n    return "rain"'
    assert "rain" in llm("-m", "mine", "--functions", tool, "hello there")
with check("image"):
    Path("dot.png").write_bytes(
        bytes.fromhex(
            "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c4944415408d763f8cfc0000003010100c9fe92ef0000000049454e44ae426082"
        )
    )
    assert "[image]" in llm("-m", "mine", "look", "-a", "dot.png")
done()
