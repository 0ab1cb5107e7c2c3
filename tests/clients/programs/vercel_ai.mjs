// Vercel's AI SDK over its OpenAI, Anthropic and OpenAI-compatible providers.
import { generateText, streamText, tool, stepCountIs } from "ai";
import { createOpenAI } from "@ai-sdk/openai";
import { createAnthropic } from "@ai-sdk/anthropic";
import { z } from "zod";
import { check, done, assert, MODEL } from "./checks.mjs";
const openai = createOpenAI({ baseURL: process.env.OPENAI_BASE_URL, apiKey: process.env.OPENAI_API_KEY });
const anthropic = createAnthropic({ baseURL: process.env.ROOT_URL + "/v1", apiKey: process.env.ANTHROPIC_API_KEY });
const models = { chat: openai.chat(MODEL), responses: openai.responses(MODEL), messages: anthropic(MODEL) };
const weather = tool({ description: "of a city", inputSchema: z.object({ city: z.string() }), execute: async () => "rain" });
for (const [name, model] of Object.entries(models)) {
  await check(`${name}: text`, async () => { assert((await generateText({ model, prompt: "hello there", maxOutputTokens: 60 })).text); });
  await check(`${name}: stream`, async () => { let text = ""; for await (const part of streamText({ model, prompt: "hello there", maxOutputTokens: 60 }).textStream) text += part; assert(text); });
  await check(`${name}: tool loop`, async () => { const r = await generateText({ model, prompt: "hello there", tools: { weather }, stopWhen: stepCountIs(3), maxOutputTokens: 60 }); assert(r.text.includes("rain")); });
}
done();
