"""What compose.yaml says for a machine without a GPU, started without Docker: asked, judged, and with Redis killed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.deploy.composed import ADMIN, PROGRAMS, SECRETS, ComposedRun, asked, spent, waits_for


@pytest.fixture
def run(tmp_path: Path) -> Iterator[ComposedRun]:
    composed = ComposedRun(tmp_path, SECRETS, PROGRAMS)
    try:
        yield composed
    finally:
        composed.stop()


def test_a_gateway_without_a_gpu_answers_learns_and_keeps_its_books_while_redis_dies(run: ComposedRun) -> None:
    run.start("redis")
    run.becomes_healthy("redis", 60)
    run.start("gateway-cpu")
    run.becomes_healthy("gateway-cpu", 180)
    url = f"http://{run.places['gateway-cpu']}:8080"
    with httpx.Client(base_url=url, timeout=60, headers=ADMIN) as admin:
        assert admin.put("/admin/v1/tenants/acme", json={"budgets": ["1 USD per day"]}).is_success
        key = admin.post("/admin/v1/keys", json={"tenant": "acme"}).json()["secret"]
        with httpx.Client(base_url=url, timeout=60, headers={"Authorization": f"Bearer {key}"}) as client:
            answer = waits_for(client, asked("What is 12 plus 7?"), 200)
            judged = {"decision_id": answer.headers["x-pointsman-decision-id"], "score": 1.0}
            assert client.post("/v1/feedback", json=judged).is_success
            before = spent(admin, "acme")
            assert 0 < before == round(float(answer.headers["x-pointsman-cost-usd"]) * 1e9)
            run.kill("redis")
            assert not run.is_healthy("redis")
            waits_for(client, asked("Is anybody there?"), 503)
            run.start("redis")
            run.becomes_healthy("redis", 60)
            after = waits_for(client, asked("What is 30 plus 4?"), 200)
            assert spent(admin, "acme") == before + round(float(after.headers["x-pointsman-cost-usd"]) * 1e9)
