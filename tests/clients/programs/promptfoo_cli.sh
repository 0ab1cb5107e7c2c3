# promptfoo: an evaluation over chat, Responses and Messages, with a tool. $1 is the folder of its packages.
export HOME=$PWD/home PROMPTFOO_DISABLE_TELEMETRY=1 PROMPTFOO_DISABLE_UPDATE=1 PROMPTFOO_DISABLE_REMOTE_GENERATION=true
mkdir -p "$HOME"
cat >promptfooconfig.json <<CONFIG
{"prompts": ["{{said}}"], "sharing": false,
 "providers": [
  {"id": "openai:chat:$MODEL", "label": "chat", "config": {"apiBaseUrl": "$OPENAI_BASE_URL"}},
  {"id": "openai:responses:$MODEL", "label": "responses", "config": {"apiBaseUrl": "$OPENAI_BASE_URL"}},
  {"id": "anthropic:messages:$MODEL", "label": "messages", "config": {"apiBaseUrl": "$ROOT_URL", "max_tokens": 60}},
  {"id": "openai:chat:$MODEL", "label": "tool", "config": {"apiBaseUrl": "$OPENAI_BASE_URL", "tool_choice": "required", "tools": [
    {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}]}}],
 "tests": [{"vars": {"said": "hello there"}, "assert": [{"type": "icontains", "value": "hello there"}]}]}
CONFIG
timeout 200 "$1/node_modules/.bin/promptfoo" eval -c promptfooconfig.json --no-cache --no-progress-bar --no-table -o out.json </dev/null >log 2>&1
node -e '
const found = JSON.parse(require("fs").readFileSync("out.json")).results.results;
for (const each of found) console.log(JSON.stringify({check: each.provider.label, ok: each.success, why: String(each.error ?? "").slice(0, 300)}));
' || printf '{"check": "eval", "ok": false, "why": "%s"}\n' "$(tail -n 3 log | tr -cd '[:print:]' | tr -d '"\\' | cut -c1-200)"
