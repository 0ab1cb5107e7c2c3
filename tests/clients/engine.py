"""An engine that speaks chat completions and nothing else: `python -m tests.clients.engine PORT`.

It knows no language. It calls the tool it is offered, with arguments made from the tool's schema, and says what the
tool answered; it writes JSON by the schema it is given; otherwise it repeats what the user said. Every request is kept
and can be read at /heard.
"""

from __future__ import annotations

import itertools
import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SHELLS = ("shell", "exec_command", "bash", "Bash", "shell_command", "local_shell", "run_command")
PROOF = "echo pointsman > proof.txt"
NUMBERS = itertools.count(1)
HEARD: list[dict[str, Any]] = []


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """The message this engine answers with."""
    messages, tools = request.get("messages", []), request.get("tools") or []
    said = [message for message in messages if message.get("role") == "tool"]
    wanted = request.get("tool_choice")
    if tools and wanted != "none" and (not said or wanted == "required" or isinstance(wanted, dict)):
        tool = chosen(tools, wanted, text(messages))
        if tool is not None:
            return {"role": "assistant", "content": None, "tool_calls": [call(tool, text(messages))]}
    form = request.get("response_format") or {}
    if form.get("type") == "json_schema":
        schema = form["json_schema"].get("schema") or {}
        return {"role": "assistant", "content": json.dumps(made(schema, schema, text(messages)))}
    if form.get("type") == "json_object":
        return {"role": "assistant", "content": json.dumps({"said": text(messages)})}
    if said:
        return {"role": "assistant", "content": f"The tool said: {plain(said[-1].get('content'))}"}
    if not tools and "proof" in text(messages):
        return {"role": "assistant", "content": "proof.txt\n```\npointsman\n```"}  # as aider wants whole files
    return {"role": "assistant", "content": f"You said: {text(messages)}"}


def chosen(tools: list[dict[str, Any]], wanted: object, said: str) -> dict[str, Any] | None:
    """The tool that the request names, a shell where there is one, else the only one."""
    functions = [tool["function"] for tool in tools if tool.get("type") == "function"]
    if isinstance(wanted, dict):
        return next((each for each in functions if each["name"] == wanted["function"]["name"]), None)
    shell = next((each for name in SHELLS for each in functions if each["name"] == name), None)
    if shell is not None:
        return shell if "proof" in said else None
    return functions[0] if len(functions) < 4 or wanted == "required" else None


def call(function: dict[str, Any], said: str) -> dict[str, Any]:
    schema = function.get("parameters") or {}
    arguments = made(schema, schema, said)
    if function["name"] in SHELLS:
        properties = schema.get("properties", {})
        key = next((name for name in ("command", "cmd", "script") if name in properties), "command")
        takes_list = properties.get(key, {}).get("type") == "array"
        arguments[key] = ["bash", "-lc", PROOF] if takes_list else PROOF
    return {
        "id": f"call_{next(NUMBERS)}",
        "type": "function",
        "function": {"name": function["name"], "arguments": json.dumps(arguments)},
    }


def made(schema: dict[str, Any], root: dict[str, Any], said: str) -> Any:
    """A value that fits a JSON schema."""
    if "$ref" in schema:
        target: Any = root
        for step in schema["$ref"].removeprefix("#/").split("/"):
            target = target[step]
        return made(target, root, said)
    if "const" in schema or "enum" in schema:
        return schema["const"] if "const" in schema else schema["enum"][0]
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            return made(schema[key][0], root, said)
    kind = schema.get("type", "object" if "properties" in schema else "string")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object":
        properties = schema.get("properties", {})
        wanted = [name for name in schema.get("required", list(properties)) if name in properties]
        return {name: made(properties[name], root, said) for name in wanted}
    if kind == "array":
        return [made(schema.get("items", {}), root, said)] * max(1, schema.get("minItems", 1))
    return {"integer": 7, "number": 7.0, "boolean": True, "null": None}.get(kind, said[:40] or "word")


def text(messages: list[dict[str, Any]]) -> str:
    users = [message for message in messages if message.get("role") == "user"]
    return plain(users[-1].get("content")) if users else ""


def plain(content: object) -> str:
    if isinstance(content, list):
        said = [part.get("text") or f"[{part.get('type', '').partition('_')[0]}]" for part in content]
        return " ".join(said)
    return content if isinstance(content, str) else ""


def whole(request: dict[str, Any], message: dict[str, Any]) -> dict[str, Any]:
    usage = counted(request, message)
    said = {"refusal": None, **message}
    choice = {"index": 0, "message": said, "logprobs": None, "finish_reason": finish(message)}
    return {**head(request, "chat.completion"), "choices": [choice], "usage": usage}


def chunks(request: dict[str, Any], message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """One word a chunk, and a call's arguments in two."""
    first = head(request, "chat.completion.chunk")
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    words = (message.get("content") or "").split(" ")
    deltas += [{"content": word if i == 0 else f" {word}"} for i, word in enumerate(words) if message.get("content")]
    for index, each in enumerate(message.get("tool_calls", [])):
        arguments = each["function"]["arguments"]
        begun = {**each, "index": index, "function": {"name": each["function"]["name"], "arguments": ""}}
        deltas.append({"tool_calls": [begun]})
        for part in (arguments[:5], arguments[5:]):
            deltas.append({"tool_calls": [{"index": index, "function": {"arguments": part}}]})
    for delta in deltas:
        yield {**first, "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}]}
    yield {**first, "choices": [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": finish(message)}]}
    if (request.get("stream_options") or {}).get("include_usage"):
        yield {**first, "choices": [], "usage": counted(request, message)}


def head(request: dict[str, Any], kind: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{next(NUMBERS)}", "object": kind, "created": 1_700_000_000, "model": request["model"]}


def finish(message: dict[str, Any]) -> str:
    return "tool_calls" if message.get("tool_calls") else "stop"


def counted(request: dict[str, Any], message: dict[str, Any]) -> dict[str, int]:
    prompt, completion = len(json.dumps(request["messages"])) // 4 + 1, len(json.dumps(message)) // 4 + 1
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


class Handler(BaseHTTPRequestHandler):
    """/v1/chat/completions and /v1/models; 404 for everything else."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def do_GET(self) -> None:
        if self.path == "/heard":
            self._json(200, HEARD)
        elif self.path == "/v1/models":
            model = {"id": "talker", "object": "model", "created": 0, "owned_by": "tests", "max_model_len": 200_000}
            self._json(200, {"object": "list", "data": [model]})
        else:
            self._json(404, {"detail": "Not Found"})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        if self.path != "/v1/chat/completions":
            self._json(404, {"detail": "Not Found"})
            return
        request = json.loads(body)
        HEARD.append(request)
        message = answer(request)
        if request.get("stream"):
            self._stream(chunks(request, message))
        else:
            self._json(200, whole(request, message))

    def _json(self, status: int, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _stream(self, events: Iterator[dict[str, Any]]) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        for event in events:
            self.wfile.write(b"data: " + json.dumps(event).encode() + b"\n\n")
        self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True


def serve(port: int = 0) -> ThreadingHTTPServer:
    """The engine, running in a thread."""
    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


if __name__ == "__main__":
    print(serve(int(sys.argv[1])).server_port, flush=True)
    threading.Event().wait()
