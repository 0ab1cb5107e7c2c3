// What every client program prints: one JSON line a check.
let failed = 0;
export const MODEL = process.env.MODEL;
export const ASK = [{ role: "user", content: "hello there" }];
export const TOOL = { name: "weather", description: "of a city", parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] } };
export const assert = (so) => { if (!so) throw new Error("not so"); };
export async function check(name, work) {
  try { await work(); console.log(JSON.stringify({ check: name, ok: true })); }
  catch (e) { failed += 1; console.log(JSON.stringify({ check: name, ok: false, why: String(e?.message ?? e).slice(0, 400) })); }
}
export const done = () => process.exit(failed ? 1 : 0);
