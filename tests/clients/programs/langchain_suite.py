"""LangChain's own suite for chat models, straight at the engine and through the gateway: the same tests must pass."""

import contextlib
import io
import os
import shutil

import pytest
from checks import check, done
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests

WAYS = {"straight": ("ENGINE_URL", "talker"), "gateway": ("OPENAI_BASE_URL", os.environ["MODEL"])}


class TestChat(ChatModelIntegrationTests):
    """Everything that LangChain tests of a chat model, for OpenAI's API."""

    supports_json_mode = True
    supports_image_inputs = True
    supports_image_urls = True
    supports_image_tool_message = True
    chat_model_class = ChatOpenAI

    @property
    def chat_model_params(self):
        url, model = WAYS[os.environ["WAY"]]
        return {"model": model, "base_url": os.environ[url], "max_retries": 0}


class Outcomes:
    """What came of each test."""

    def __init__(self):
        self.of = {}

    def pytest_runtest_logreport(self, report):
        if report.when == "call" or report.outcome != "passed":
            self.of[report.nodeid.rpartition("::")[2]] = "xfailed" if hasattr(report, "wasxfail") else report.outcome


def outcomes(way):
    os.environ["WAY"], found = way, Outcomes()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        options = ["--rootdir", ".", "-c", os.devnull, "-p", "no:cacheprovider", "--asyncio-mode", "auto"]
        # LangChain shares connections that stay open between tests, and those belong to one loop
        options += ["-o", "asyncio_default_test_loop_scope=session"]
        pytest.main(["suite.py", *options], plugins=[found])
    return found.of


if __name__ == "__main__":
    shutil.copy(__file__, "suite.py")
    straight, through = outcomes("straight"), outcomes("gateway")
    with check("suite ran"):
        assert sum(each == "passed" for each in straight.values()) > 20, straight
    for name in sorted({*straight, *through}):
        with check(f"{name} ({straight.get(name)} straight)"):
            assert straight.get(name) == through.get(name), f"{through.get(name)} through the gateway"
    done()
