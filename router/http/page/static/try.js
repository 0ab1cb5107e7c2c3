// Try: ask, read the answer as it comes, see why that model, and say whether it was right.

import { about, ask, events, hasKey, send } from "./api.js";
import { decisionView } from "./decision.js";
import { failure, h, rest, show } from "./dom.js";
import { digits, usd } from "./figures.js";

const SETTLED_MS = [0, 150, 600]; // what an answer cost is logged a moment after it

/** The page, in `root`. */
export function page(root) {
  const talk = h("div", { class: "talk", "aria-live": "polite" });
  const why = h("section", { class: "card stack", "aria-label": "Decision" });
  const notice = h("div", {});
  const text = h("textarea", { id: "ask", rows: "3", placeholder: "Ask something", required: true });
  const go = h("button", { class: "main", type: "submit", id: "send" }, "Send");
  const stop = h("button", { type: "button", id: "stop", "aria-disabled": "true" }, "Stop");
  const settings = controls();
  const examples = h("section", { class: "card", "aria-label": "Examples" });
  const form = h("form", { class: "composer card" },
    h("label", { for: "ask", class: "sr" }, "Your request"), text, settings.element,
    h("div", { class: "row" }, go, stop, h("span", { class: "soft small wide" }, "Enter sends, Shift+Enter is a new line")),
    notice);
  let models = [], packaged = [], skills = [], said = [], running = null;

  const canDo = (request) => skills.some((skill) => skill.patterns.some((p) => p.test(request.trim())));
  const onlyPackaged = () => models.length > 0 && models.every((name) => packaged.includes(name));

  async function submit(anyway = false) {
    const request = text.value.trim();
    if (!request || running) return;
    show(notice);
    if (!anyway && onlyPackaged() && !canDo(request)) return refuse();
    text.value = "";
    examples.querySelector("details")?.removeAttribute("open");
    await answer(request);
  }

  function refuse() {
    const send = h("button", { type: "button", onclick: () => { text.focus(); submit(true); } }, "Send it anyway");
    show(notice, h("div", { class: "notice stack", role: "alert" },
      h("p", {}, "None of the packaged models can do this. They know thirty-four kinds of short questions, such as those "
        + "below, and would answer anything else with an arbitrary word. Models of your own go into the settings."),
      h("div", { class: "row" }, send)));
    send.focus();
  }

  async function answer(request) {
    const turn = newTurn(talk, request);
    const body = settings.body(settings.keeps() ? [...said, { role: "user", content: request }]
      : [{ role: "user", content: request }]);
    running = new AbortController();
    rest(go, true);
    rest(stop, false);
    try {
      const response = await send("v1/chat/completions", { method: "POST", body, signal: running.signal });
      turn.began(response.headers);
      for await (const event of events(response)) turn.took(event);
      said.push({ role: "user", content: request }, { role: "assistant", content: turn.text() });
      turn.ended();
    } catch (error) {
      turn.failed(error);
      if (error.code === "model_not_found") refresh(); // the settings were changed since
    } finally {
      running = null;
      rest(go, false);
      rest(stop, true);
    }
    if (turn.decision) await explain(turn.decision, body);
  }

  async function explain(id, body) {
    try {
      const found = await decided(id);
      const considered = new Set(found.candidates.map((each) => each.model));
      if (found.policy !== "pinned" && models.some((name) => !considered.has(name))) {
        const { candidates } = await ask("v1/route", { method: "POST", body: { ...body, stream: false } });
        found.candidates.push(...candidates.filter((each) => !each.eligible && !considered.has(each.model)));
      }
      show(why, h("h2", {}, "Why this model"), decisionView(found));
    } catch (error) {
      show(why, h("h2", {}, "Why this model"), failure(error));
    }
  }

  async function refresh() {
    try {
      if (!hasKey() && (await about()).needs_key) return;
      const listed = (await ask("v1/models")).data;
      models = listed.filter((m) => m.owned_by !== "pointsman" && m.capabilities?.includes("chat")).map((m) => m.id);
      settings.offer(listed.map((m) => m.id).filter((id) => id !== "auto"));
      show(examples, onlyPackaged() ? exampleList(skills, pick) : null);
      examples.hidden = !onlyPackaged();
    } catch { /* the field of the key says it */ }
  }

  function pick(example) {
    text.value = example;
    show(notice);
    text.focus();
    submit();
  }

  stop.addEventListener("click", () => running?.abort());
  form.addEventListener("submit", (event) => { event.preventDefault(); submit(); });
  text.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    submit();
  });
  examples.hidden = true;
  show(why, h("h2", {}, "Why this model"), h("p", { class: "soft" },
    "After each answer this shows every model that was considered, what it was expected to earn and cost, and what "
    + "would have changed the choice."));
  show(root, h("h1", { class: "sr" }, "Try"), h("div", { class: "columns" },
    h("div", { class: "stack" }, talk, form, examples), why));

  Promise.all([about(), ask("page/skills.json")]).then(([gateway, known]) => {
    packaged = gateway.packaged;
    skills = known.map((skill) => ({ ...skill, patterns: skill.patterns.map((p) => new RegExp(p, "i")) }));
  }).catch(() => {}).then(refresh); // without them the page only has no examples
  return { keyChanged: refresh, enter: () => hasKey() && text.focus({ preventScroll: true }) };
}

/** A decision of the log, which may come a moment after the answer. */
async function decided(id) {
  let found, problem;
  for (const wait of SETTLED_MS) {
    await new Promise((done) => setTimeout(done, wait));
    try {
      found = await ask(`v1/decisions/${encodeURIComponent(id)}`);
      if (found.cost_usd !== undefined) return found;
    } catch (error) {
      problem = error;
    }
  }
  if (found) return found;
  throw problem;
}

function controls() {
  const model = h("select", { id: "model" }, h("option", { value: "auto" }, "auto"));
  const slider = h("input", { id: "preference", type: "range", min: "0", max: "1", step: "0.01", value: "0.5" });
  const says = h("output", { for: "preference" }, "as the key says");
  const whole = h("input", { id: "whole", type: "checkbox" });
  const back = h("button", { type: "button", class: "plain small", hidden: true }, "as the key says");
  let moved = false;
  const tell = () => {
    says.textContent = moved ? Number(slider.value).toFixed(2) : "as the key says";
    back.hidden = !moved;
    slider.setAttribute("aria-valuetext", says.textContent);
  };
  slider.addEventListener("input", () => { moved = true; tell(); });
  back.addEventListener("click", () => { moved = false; slider.value = "0.5"; tell(); slider.focus(); });
  tell();
  const element = h("div", { class: "settings" },
    h("label", { for: "model" }, "Model", model,
      ),
    h("div", {}, h("label", { for: "preference" }, h("span", { class: "ends" }, h("span", {}, "Preference ", says), back),
      slider, h("span", { class: "ends" }, h("span", {}, "cheapest"), h("span", {}, "best")))),
    h("label", { class: "check", for: "whole" }, whole, "send the conversation so far"));
  return {
    element,
    keeps: () => whole.checked,
    offer(names) {
      const chosen = model.value;
      show(model, ["auto", ...names].map((name) => h("option", { value: name }, name)));
      model.value = names.includes(chosen) ? chosen : "auto";
    },
    body: (messages) => ({ model: model.value, messages, stream: true, temperature: 0,
      stream_options: { include_usage: true }, ...(moved ? { routing: { preference: Number(slider.value) } } : {}) }),
  };
}

/** A request and its answer, as it comes. */
function newTurn(talk, request) {
  const answer = h("div", { class: "answer waiting" });
  const facts = h("div", { class: "facts" });
  talk.append(h("article", { class: "turn" }, h("div", { class: "said" }, request), answer, facts));
  talk.lastChild.scrollIntoView({ block: "nearest" });
  let text = "", model = "", decision = null, cost = null, overhead = null;
  const began = performance.now();
  let first = null, due = 0;
  const drawn = () => { // once a frame: an answer may have a hundred thousand pieces
    cancelAnimationFrame(due);
    due = 0;
    if (text) answer.textContent = text;
  };
  return {
    get decision() { return decision; },
    text: () => text,
    began(headers) {
      decision = headers.get("x-pointsman-decision-id");
      model = headers.get("x-pointsman-model");
      overhead = headers.get("x-pointsman-overhead-ms");
    },
    took(event) {
      const delta = event.choices?.[0]?.delta?.content;
      if (delta) {
        first ??= performance.now() - began;
        text += delta;
        due ||= requestAnimationFrame(drawn);
      }
      if (event.usage?.cost !== undefined) cost = event.usage.cost;
    },
    ended() {
      drawn();
      answer.classList.remove("waiting");
      if (!text) show(answer, h("span", { class: "soft" }, "(no text)"));
      const took = performance.now() - began;
      show(facts, h("b", {}, model), cost === null ? null : h("span", {}, usd(cost)),
        h("span", {}, `${digits(took)} ms, first word after ${digits(first ?? took)} ms`),
        overhead ? h("span", {}, `${digits(Number(overhead))} ms of it the gateway`) : null, thumbs(decision));
    },
    failed(error) {
      drawn();
      answer.classList.remove("waiting");
      show(facts, error.name === "AbortError" ? "stopped" : failure(error));
    },
  };
}

function thumbs(decision) {
  const told = h("span", { role: "status" });
  const button = (way, sign, label) => h("button", { type: "button", "aria-label": label, "aria-pressed": "false",
    onclick: async (event) => {
      try {
        await ask("v1/feedback", { method: "POST", body: { decision_id: decision, thumbs: way, replace: true } });
        for (const each of event.target.parentNode.children) each.setAttribute("aria-pressed", String(each === event.target));
        show(told, "learned");
      } catch (error) {
        show(told, error.message);
      }
    } }, sign);
  return [h("span", { class: "row" }, button("up", "Right", "This answer is right"),
    button("down", "Wrong", "This answer is wrong")), told];
}

/** What the packaged models can do, to click. */
function exampleList(skills, pick) {
  const groups = new Map();
  for (const skill of skills.filter((each) => each.example)) {
    groups.set(skill.group, [...(groups.get(skill.group) ?? []), skill]);
  }
  return h("details", { open: true }, h("summary", {}, "What the packaged models can do: thirty-four kinds of short questions"),
    h("div", { class: "examples" }, [...groups].flatMap(([group, known]) => [h("h3", {}, group),
      h("div", {}, known.map((each) => h("button", { type: "button", title: each.example, onclick: () => pick(each.example) },
        each.example.split("\n").at(-1))))])));
}
