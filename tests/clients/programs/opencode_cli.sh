# opencode: the agent's loop with its shell, over chat, Responses and Messages. $1 is the folder of its packages.
export HOME=$PWD/home OPENCODE_DISABLE_AUTOUPDATE=1; mkdir -p "$HOME"
provider() { printf '"%s": {"npm": "%s", "options": {"baseURL": "%s", "apiKey": "%s"}, "models": {"%s": {}}}' "$1" "$2" "$3" "$OPENAI_API_KEY" "$MODEL"; }
printf '{"share": "disabled", "permission": {"bash": "allow"}, "provider": {%s, %s, %s}}' \
  "$(provider chat @ai-sdk/openai-compatible "$OPENAI_BASE_URL")" "$(provider responses @ai-sdk/openai "$OPENAI_BASE_URL")" \
  "$(provider messages @ai-sdk/anthropic "$ROOT_URL/v1")" >opencode.json
for way in chat responses messages; do
  rm -f proof.txt
  timeout 150 "$1/node_modules/.bin/opencode" run -m "$way/$MODEL" "please write the proof" </dev/null >log 2>&1
  if [ "$(cat proof.txt 2>/dev/null)" = pointsman ]; then echo "{\"check\": \"$way: tool loop\", \"ok\": true}"
  else printf '{"check": "%s: tool loop", "ok": false, "why": "%s"}\n' "$way" "$(tail -n 3 log | tr -cd '[:print:]' | tr -d '"\\' | cut -c1-200)"; fi
done
