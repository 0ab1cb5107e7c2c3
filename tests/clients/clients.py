"""Which programs of users are run against the gateway, and what each needs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Client:
    """A client program: a script of programs/, or the command of a command-line agent."""

    name: str
    script: str
    python: tuple[str, ...] = ()  # packages from PyPI
    node: tuple[str, ...] = ()  # packages from npm
    source: str = ""  # a package whose own examples are run, from its source distribution
    quick: bool = False  # a part of every continuous-integration run
    short: bool = True  # what it sends fits a context of 512 bytes, in part at least


CLIENTS = (
    Client("OpenAI SDK, Python", "openai_python.py", python=("openai",), quick=True),
    Client("OpenAI's own examples", "openai_examples.py", python=("openai", "rich", "httpx2"), source="openai"),
    Client("Anthropic SDK, Python", "anthropic_python.py", python=("anthropic",), quick=True),
    Client("OpenAI SDK, Node", "openai_node.mjs", node=("openai",), quick=True),
    Client("Anthropic SDK, Node", "anthropic_node.mjs", node=("@anthropic-ai/sdk",)),
    Client("LangChain", "langchain_python.py", python=("langchain-openai", "langchain-anthropic")),
    Client(
        "langchain-tests",
        "langchain_suite.py",
        python=("langchain-tests", "langchain-openai", "langchain-anthropic"),
        short=False,
    ),
    Client("litellm", "litellm_python.py", python=("litellm",)),
    Client("Pydantic AI", "pydantic_ai_python.py", python=("pydantic-ai-slim[openai,anthropic]",)),
    Client("instructor", "instructor_python.py", python=("instructor",)),
    Client("OpenAI Agents SDK", "openai_agents_python.py", python=("openai-agents",)),
    Client("Vercel AI SDK", "vercel_ai.mjs", node=("ai", "@ai-sdk/openai", "@ai-sdk/anthropic", "zod")),
    Client("LlamaIndex", "llama_index_python.py", python=("llama-index-llms-openai-like",)),
    Client("Codex", "codex_cli.sh", node=("@openai/codex",), short=False),
    Client("Claude Code", "claude_cli.sh", node=("@anthropic-ai/claude-code",), short=False),
    Client("opencode", "opencode_cli.sh", node=("opencode-ai",), short=False),
    Client("aider", "aider_cli.sh", python=("aider-chat",), short=False),
    Client("llm", "llm_cli.py", python=("llm",)),
    Client("promptfoo", "promptfoo_cli.sh", node=("promptfoo",), short=False),
    Client("DSPy", "dspy_python.py", python=("dspy",)),
)
