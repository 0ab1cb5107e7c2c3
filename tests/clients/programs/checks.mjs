// What every client program prints: one JSON line a check.
let failed = 0;
export const MODEL = process.env.MODEL;
export const ASK = [{ role: "user", content: "hello there" }];
export const TOOL = { name: "weather", description: "of a city", parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] } };
export const assert = (so) => { if (!so) throw new Error("not so"); };
export async function check(name, work) {
  try { await work(); console.log(JSON.stringify({ check: name, ok: true })); }
  catch (e) {
    const said = String(e?.message ?? e).slice(0, 400), why = untold(said);
    failed += why ? 0 : 1;
    console.log(JSON.stringify({ check: name, ok: why ? null : false, why: why ?? said }));
  }
}
function untold(said) {  // of the packaged models, as checks.py has it
  if (MODEL !== "family") return null;
  if (said.includes("is not supported")) return "it cannot";
  return said.includes("the request is too long") ? "too long for it" : said === "not so" ? "it says something else" : null;
}
export const done = () => process.exit(failed ? 1 : 0);
