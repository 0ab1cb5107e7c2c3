"""LlamaIndex over an OpenAI-compatible server: complete, chat, stream, tools."""

import os

from checks import check, done
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike

llm = OpenAILike(
    model=os.environ["MODEL"],
    api_base=os.environ["OPENAI_BASE_URL"],
    api_key=os.environ["OPENAI_API_KEY"],
    is_chat_model=True,
    is_function_calling_model=True,
    context_window=8000,
    max_retries=0,
)
ASK = [ChatMessage(role="user", content="hello there")]
with check("complete"):
    assert llm.complete("hello there").text
with check("chat"):
    assert llm.chat(ASK).message.content
with check("stream"):
    assert "".join(part.delta for part in llm.stream_chat(ASK))
with check("tools"):
    weather = FunctionTool.from_defaults(lambda city: "rain", name="weather", description="of a city")
    said = llm.chat_with_tools([weather], user_msg="hello there")
    assert llm.get_tool_calls_from_response(said, error_on_no_tool_call=False)
done()
