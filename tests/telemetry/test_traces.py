"""Spans by the conventions for generative AI: one a request, a decision and an attempt, below the client's trace."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from anyio.from_thread import start_blocking_portal

from backends.scripted import Line, by_model
from benchmarks.scripted_server import ScriptedServer
from router.http.app import App
from router.http.connections import Connection
from router.settings import load
from router.wiring import open_runtime
from tests.http.conftest import chat
from tests.http.module import candidates
from tests.http.test_asgi import plain_uvicorn

pytest.importorskip("opentelemetry.sdk", reason="needs the extra `otel`")

from opentelemetry.sdk.trace import Tracer as SdkTracer
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes
from opentelemetry.semconv.attributes import error_attributes, http_attributes, url_attributes
from opentelemetry.trace import SpanKind, StatusCode

CHAT = "/v1/chat/completions"
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
KNOWN = {
    value
    for module in (gen_ai_attributes, error_attributes, http_attributes, url_attributes)
    for name, value in vars(module).items()
    if name.isupper() and isinstance(value, str)
}
PROMPT, ANSWER = "violets are asked", "roses are answered"


class Spans(InMemorySpanExporter):  # type: ignore[misc]  # of an extra
    def of(self, client_trace: str, count: int) -> list[Any]:
        """Those of a trace, once there are so many, in the order of their start."""
        due = time.monotonic() + 15
        while True:
            found = [span for span in self.get_finished_spans() if f"{span.context.trace_id:032x}" == client_trace]
            if len(found) >= count:
                return sorted(found, key=lambda span: int(span.start_time))
            assert time.monotonic() < due, [span.name for span in found]
            time.sleep(0.05)


def price(usd: float) -> dict[str, Any]:
    return {"price": {"prompt": usd, "completion": usd}}


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[httpx.Client, Spans, Any]]:
    folder, spans = tmp_path_factory.mktemp("traces"), Spans()
    lines = {"small": Line(text=ANSWER), "other": Line(text=ANSWER), "bad": Line(trouble="500")}
    with (
        pytest.MonkeyPatch.context() as patched,
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(ScriptedServer(by_model(lines))) as engine,
    ):
        patched.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        made = candidates(folder, engine, {"bad": price(0.0001), "small": price(2), "other": price(3)})
        made["programs"] = {
            "draft": {"kind": "refine", "draft": "small", "critic": "other"},
            "deep": {"kind": "vote", "of": "draft", "n": 2},
            "broken": {"kind": "refine", "draft": "small", "critic": "bad"},
        }
        more = {"auth": {"required": False}, "telemetry": {"traces": {"share": 0.0}, "access_log": False}}
        (folder / "p.yaml").write_text(yaml.safe_dump(made | more))
        app = App(partial(open_runtime, load(folder / "p.yaml"), None, spans=spans))
        with plain_uvicorn(app, http=Connection) as url, httpx.Client(base_url=url, timeout=30) as client:
            yield client, spans, engine


def ask(client: httpx.Client, number: int, *, sampled: bool = True, **more: Any) -> tuple[str, httpx.Response]:
    """(its trace, the answer)."""
    trace = f"{int(TRACE, 16) + number:032x}"
    headers = {"traceparent": f"00-{trace}-{PARENT}-0{int(sampled)}", "tracestate": "vendor=1"}
    return trace, client.post(CHAT, json=chat(PROMPT, **more), headers=headers)


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_its_decision_and_its_attempt_are_spans_below_the_clients(traced: Any, stream: bool) -> None:
    client, spans, engine = traced
    trace, answer = ask(client, 1 + stream, model="small", stream=stream)
    request, decision, attempt = spans.of(trace, 3)
    assert (request.name, request.kind) == (f"POST {CHAT}", SpanKind.SERVER)
    assert (decision.name, attempt.name, attempt.kind) == ("decide", "chat small", SpanKind.CLIENT)
    assert f"{request.parent.span_id:016x}" == PARENT
    assert decision.parent.span_id == attempt.parent.span_id == request.context.span_id
    assert request.start_time <= decision.start_time <= decision.end_time <= attempt.start_time
    assert attempt.end_time <= request.end_time
    sent = {name.lower(): value for name, value in engine.heard[-1].headers.items()}
    assert sent["traceparent"] == f"00-{trace}-{attempt.context.span_id:016x}-01"
    assert sent["tracestate"] == "vendor=1"
    reported = request.attributes
    assert (reported["http.response.status_code"], reported["http.route"]) == (200, CHAT)
    assert reported["pointsman.request.id"] == answer.headers["x-request-id"]
    for span in (request, attempt):
        assert span.attributes["gen_ai.usage.output_tokens"] > 0
        assert span.attributes["pointsman.cost_usd"] > 0
        assert span.attributes["gen_ai.response.model"] == "small"
    assert attempt.attributes["gen_ai.provider.name"] == "vllm"
    assert attempt.attributes["gen_ai.request.stream"] is stream


@pytest.mark.parametrize("stream", [False, True])
def test_a_run_of_a_program_is_a_span_and_each_of_its_steps_one_below_it(traced: Any, stream: bool) -> None:
    client, spans, _ = traced
    trace, answer = ask(client, 70 + stream, model="draft", stream=stream)
    assert answer.status_code == 200
    found = spans.of(trace, 9)
    request, decided, run, *below = found
    assert (decided.name, run.name, run.kind) == ("decide", "invoke_workflow draft", SpanKind.INTERNAL)
    assert run.parent.span_id == request.context.span_id
    assert {span.parent.span_id for span in below} == {run.context.span_id}
    steps = [span for span in below if span.name != "decide"]
    assert [span.name for span in steps] == ["chat small", "chat other", "chat small"]
    assert {span.attributes["pointsman.program"] for span in steps} == {"draft"}
    assert [span.attributes["pointsman.step"].split()[0] for span in steps] == ["1", "2", "3"]
    whole = below[:-1] if stream else below  # a stream is settled before its last event, which ends the last step
    assert all(run.start_time <= span.start_time <= span.end_time <= run.end_time for span in whole)
    assert run.start_time <= below[-1].start_time <= below[-1].end_time <= request.end_time
    assert run.attributes["pointsman.cost_usd"] == pytest.approx(sum(s.attributes["pointsman.cost_usd"] for s in steps))
    assert request.attributes["pointsman.cost_usd"] == run.attributes["pointsman.cost_usd"]


def test_a_program_within_a_program_has_a_span_of_its_own_between(traced: Any) -> None:
    client, spans, _ = traced
    trace, answer = ask(client, 80, model="deep", temperature=0.7)
    assert answer.status_code == 200
    found = spans.of(trace, 3 + 2 * 8)
    by_id = {span.context.span_id: span for span in found}
    (outer,) = [span for span in found if span.name == "invoke_workflow deep"]
    inner = [span for span in found if span.name == "invoke_workflow draft"]
    assert [by_id[span.parent.span_id].name for span in inner] == ["invoke_workflow deep"] * 2
    chats = [span for span in found if span.name.startswith("chat ")]
    assert len(chats) == 6
    assert {by_id[span.parent.span_id].name for span in chats} == {"invoke_workflow draft"}
    assert outer.attributes["gen_ai.workflow.name"] == "deep"


def test_a_step_that_fails_is_a_failed_span_in_a_failed_run(traced: Any) -> None:
    client, spans, _ = traced
    trace, answer = ask(client, 90, model="broken")
    assert answer.status_code == 502
    found = {span.name: span for span in spans.of(trace, 7)}
    assert found["chat small"].status.status_code == StatusCode.UNSET
    assert found["chat bad"].status.status_code == StatusCode.ERROR
    assert found["invoke_workflow broken"].status.status_code == StatusCode.ERROR


def test_each_attempt_is_a_span_and_a_failed_one_says_how_not_what(traced: Any) -> None:
    client, spans, _ = traced
    trace, answer = ask(client, 20)
    found = spans.of(trace, 5)
    attempts = [span for span in found if span.name.startswith("chat ")]
    assert [span.name for span in attempts] == ["chat bad", "chat small"]
    assert (attempts[0].status.status_code, attempts[1].status.status_code) == (StatusCode.ERROR, StatusCode.UNSET)
    assert attempts[0].attributes["error.type"]
    assert len([span for span in found if span.name == "decide"]) == 2
    assert answer.status_code == 200


def test_a_decision_says_who_was_there_at_what_price_and_how_likely(traced: Any) -> None:
    client, spans, _ = traced
    trace, answer = ask(client, 10, routing={"preference": 1})
    decision = [span for span in spans.of(trace, 3) if span.name == "decide"][-1]
    reported = decision.attributes
    assert set(reported["pointsman.candidates"]) >= {"small", "other"}
    assert sum(reported["pointsman.candidates.probability"]) == pytest.approx(1)
    assert len(reported["pointsman.candidates.price"]) == len(reported["pointsman.candidates"])
    assert 0 < reported["pointsman.propensity"] <= 1
    assert answer.headers["x-pointsman-model"] == "small"


def test_a_refusal_is_a_span_with_its_status(traced: Any) -> None:
    client, spans, _ = traced
    trace, _ = ask(client, 30, model="nobody")
    (request,) = spans.of(trace, 1)
    assert request.attributes["http.response.status_code"] == 404
    trace, _ = ask(client, 31, model="bad")
    found = {span.name: span for span in spans.of(trace, 3)}
    assert found[f"POST {CHAT}"].status.status_code == StatusCode.ERROR
    assert found[f"POST {CHAT}"].attributes["error.type"] == "502"


def test_a_trace_that_its_client_does_not_record_is_not_recorded_and_goes_on(traced: Any) -> None:
    client, spans, engine = traced
    trace, answer = ask(client, 40, sampled=False, model="small")
    assert answer.status_code == 200
    assert engine.heard[-1].headers["traceparent"] == f"00-{trace}-{PARENT}-00"
    client.post(CHAT, json=chat(PROMPT, model="small"))  # nobody's, of which a share of 0.0 is recorded
    last, _ = ask(client, 41, model="small")
    spans.of(last, 3)
    assert not [span for span in spans.get_finished_spans() if f"{span.context.trace_id:032x}" == trace]


@pytest.mark.parametrize(
    "parent",
    [
        f"00-{TRACE}-{PARENT}-00",
        f"01-{TRACE}-{PARENT}-02-more",
        f"00-{'0' * 32}-{PARENT}-01",  # no trace: it begins here, of which a share of 0.0 is recorded
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-{PARENT}-01",
        "no traceparent at all",
        None,
    ],
)
def test_where_nothing_is_recorded_opentelemetry_is_not_asked(
    traced: Any, parent: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, spans, _ = traced
    begun: list[str] = []
    begin = SdkTracer.start_span

    def noted(tracer: Any, name: str, **more: Any) -> Any:
        begun.append(name)
        return begin(tracer, name, **more)

    monkeypatch.setattr(SdkTracer, "start_span", noted)
    headers = {} if parent is None else {"traceparent": parent}
    assert client.post(CHAT, json=chat(PROMPT, model="small"), headers=headers).status_code == 200
    assert begun == []
    last, _ = ask(client, 42, model="small")
    spans.of(last, 3)
    assert begun == [f"POST {CHAT}", "decide", "chat small"]


def test_of_requests_that_nobody_traces_a_share_is_recorded(tmp_path: Path) -> None:
    spans = Spans()
    settings = {
        "state_dir": "s",
        "auth": {"required": False},
        "backends": {"f": {"kind": "scripted", "text": "hi"}},
        "models": [{"name": "m", "price": {"prompt": 1, "completion": 1}}],
        "telemetry": {"traces": {"share": 0.5}},
    }
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(settings))
    app = App(partial(open_runtime, load(tmp_path / "p.yaml"), None, spans=spans))
    with plain_uvicorn(app, http=Connection) as url:
        for _ in range(64):
            assert httpx.post(url + CHAT, json=chat()).status_code == 200
    recorded = [span for span in spans.get_finished_spans() if span.name == f"POST {CHAT}"]
    assert 0 < len(recorded) < 64
    assert len({span.context.trace_id for span in recorded}) == len(recorded)
    assert len(spans.get_finished_spans()) == 3 * len(recorded)


def test_attributes_are_of_the_conventions_or_our_own_and_hold_no_text(traced: Any) -> None:
    client, spans, _ = traced
    trace, _ = ask(client, 50, model="small")
    spans.of(trace, 3)
    for span in spans.get_finished_spans():
        strange = [name for name in span.attributes if name not in KNOWN and not name.startswith("pointsman.")]
        assert strange == []
        assert not [value for value in span.attributes.values() if PROMPT in str(value) or ANSWER in str(value)]
    deprecated = {"gen_ai.system", "gen_ai.usage.prompt_tokens", "gen_ai.usage.completion_tokens", "gen_ai.prompt"}
    assert not deprecated & {name for span in spans.get_finished_spans() for name in span.attributes}


def test_the_service_is_named(traced: Any) -> None:
    client, spans, _ = traced
    trace, _ = ask(client, 60, model="small")
    (resource,) = {span.resource for span in spans.of(trace, 3)}
    assert resource.attributes["service.name"] == "pointsman"


def test_without_traces_nothing_that_makes_spans_is_imported(tmp_path: Path) -> None:
    program = """
import asyncio, sys
from pathlib import Path
from router.http.server import make_app
from router.settings import load
from router.wiring import open_runtime
async def main():
    async with open_runtime(load(Path("p.yaml")), None) as runtime:
        assert runtime.tracer is None
asyncio.run(main())
print(sorted({"router.gateway.traced", "router.http.tracing", "router.telemetry.otlp"} & set(sys.modules)))
"""
    (tmp_path / "p.yaml").write_text("state_dir: s\n")
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


def test_spans_go_to_a_collector_by_otlp(tmp_path: Path) -> None:
    """A collector that takes what comes to /v1/traces, with the header that the settings say."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    heard: list[tuple[str, str, bytes]] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            heard.append((self.path, self.headers["x-token"], body))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    traces = {"endpoint": f"http://127.0.0.1:{server.server_port}", "headers": "x-token=hush"}
    settings = {
        "state_dir": "s",
        "auth": {"required": False},
        "backends": {"f": {"kind": "scripted", "text": "hi"}},
        "models": [{"name": "m", "price": {"prompt": 1, "completion": 1}}],
        "telemetry": {"traces": traces},
    }
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(settings))
    app = App(partial(open_runtime, load(tmp_path / "p.yaml"), None))
    with plain_uvicorn(app, http=Connection) as url:
        assert httpx.post(url + CHAT, json=chat()).status_code == 200
    server.shutdown()
    server.server_close()
    assert {(path, token) for path, token, _ in heard} == {("/v1/traces", "hush")}
    sent = [each for _, _, body in heard for each in ExportTraceServiceRequest.FromString(body).resource_spans]
    names = [span.name for each in sent for scope in each.scope_spans for span in scope.spans]
    assert sorted(names) == [f"POST {CHAT}", "chat m", "decide"]
