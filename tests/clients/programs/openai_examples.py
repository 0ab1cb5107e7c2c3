"""OpenAI's own examples, as they stand in the SDK's source distribution: only the URL and the key are changed.

The key and the URL come from the environment; two examples have theirs in the text, where they are put in. What asks for
images, speech, video or a socket is no gateway's for text: it must end in an error in OpenAI's words.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

from checks import check, done

EXAMPLES = Path(os.environ["SOURCE"]) / "examples"
TEXT = ["demo", "async_demo", "azure", "module_client", "streaming", "parsing", "parsing_stream", "parsing_tools"]
TEXT += ["parsing_tools_stream", "responses_input_tokens", "httpx2_client"]
TEXT += [f"responses/{name}" for name in ("streaming", "streaming_tools", "structured_outputs")]
TEXT += ["responses/structured_outputs_tools"]
OTHER = ["picture", "audio", "video"]
ROOT, KEY = os.environ["ROOT_URL"], os.environ["OPENAI_API_KEY"]


def run(name):
    text = (EXAMPLES / f"{name}.py").read_text()
    text = re.sub(r"https://example-\w+\.[\w.]*azure[\w.]*\.com/?", ROOT, text)
    text = text.replace('base_url = "https://..."', f'base_url = "{ROOT}/v1/"').replace('key = "..."', f'key = "{KEY}"')
    Path("example.py").write_text(text)
    env = {**os.environ, **({"AZURE_OPENAI_API_KEY": KEY} if name == "azure" else {})}
    command = [sys.executable, "example.py"]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=280)


for name in TEXT:
    ran = run(name)
    last = (ran.stderr.strip().splitlines() or [""])[-1]
    with check(name):
        if ran.returncode:
            raise RuntimeError(last)
for name in OTHER:
    with check(f"refused: {name}"):
        ran = run(name)
        assert ran.returncode != 0, "it answered"
        assert "openai.NotFoundError: Error code: 404" in ran.stderr, ran.stderr[-300:]
done()
