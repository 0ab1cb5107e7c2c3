// Anthropic's own SDK for Node: messages, streams, tools, counting tokens.
import Anthropic from "@anthropic-ai/sdk";
import { check, done, assert, MODEL, ASK, TOOL } from "./checks.mjs";
const client = new Anthropic();
const tools = [{ name: TOOL.name, description: TOOL.description, input_schema: TOOL.parameters }];
await check("messages", async () => { const a = await client.messages.create({ model: MODEL, max_tokens: 60, messages: ASK }); assert(a.content[0].text); assert(a._request_id); });
await check("stream", async () => { const s = client.messages.stream({ model: MODEL, max_tokens: 60, messages: ASK }); assert((await s.finalText())); });
await check("tools", async () => { const a = await client.messages.create({ model: MODEL, max_tokens: 60, messages: ASK, tools, tool_choice: { type: "any" } }); const use = a.content.find((b) => b.type === "tool_use"); const b = await client.messages.create({ model: MODEL, max_tokens: 60, tools, messages: [...ASK, { role: "assistant", content: a.content }, { role: "user", content: [{ type: "tool_result", tool_use_id: use.id, content: "rain" }] }] }); assert(b.content[0].text.includes("rain")); });
await check("count_tokens", async () => { assert((await client.messages.countTokens({ model: MODEL, messages: ASK })).input_tokens > 0); });
done();
