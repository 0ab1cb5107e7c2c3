// OpenAI's own SDK for Node: chat, streams, tools, structured output, responses, errors.
import OpenAI from "openai";
import { check, done, assert, MODEL, ASK, TOOL } from "./checks.mjs";
const client = new OpenAI();
const tools = [{ type: "function", function: TOOL }];
await check("models", async () => { for await (const m of client.models.list()) if (m.id === MODEL) return; throw new Error("not listed"); });
await check("chat", async () => { const a = await client.chat.completions.create({ model: MODEL, messages: ASK }); assert(a.choices[0].message.content); assert(a.usage.total_tokens > 0); });
await check("stream", async () => { let text = ""; for await (const c of await client.chat.completions.create({ model: MODEL, messages: ASK, stream: true })) text += c.choices[0]?.delta?.content ?? ""; assert(text); });
await check("stream helper", async () => { const s = client.chat.completions.stream({ model: MODEL, messages: ASK }); assert((await s.finalChatCompletion()).choices[0].message.content); });
await check("tools", async () => { const a = await client.chat.completions.create({ model: MODEL, messages: ASK, tools, tool_choice: "required" }); const call = a.choices[0].message.tool_calls[0]; const b = await client.chat.completions.create({ model: MODEL, messages: [...ASK, a.choices[0].message, { role: "tool", tool_call_id: call.id, content: "rain" }], tools }); assert(b.choices[0].message.content.includes("rain")); });
await check("responses", async () => { const a = await client.responses.create({ model: MODEL, input: "hello there" }); assert(a.output_text); });
await check("responses stream", async () => { let text = ""; for await (const e of await client.responses.create({ model: MODEL, input: "hello there", stream: true })) if (e.type === "response.output_text.delta") text += e.delta; assert(text); });
await check("previous_response_id", async () => { const a = await client.responses.create({ model: MODEL, input: "hello there" }); assert((await client.responses.create({ model: MODEL, input: "again", previous_response_id: a.id })).output_text); });
await check("unknown model is a 404", async () => { try { await client.chat.completions.create({ model: "no-such-model", messages: ASK }); } catch (e) { assert(e.status === 404); return; } throw new Error("it answered"); });
done();
