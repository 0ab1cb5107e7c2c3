# Codex: the agent's loop with its shell, over Responses. $1 is the folder of its packages.
provider='model_providers.pm={name="pm",base_url="'$OPENAI_BASE_URL'",env_key="OPENAI_API_KEY",wire_api="responses"}'
export HOME=$PWD/home; mkdir -p "$HOME"
timeout 120 "$1/node_modules/.bin/codex" exec --skip-git-repo-check -c model_provider=pm -c "$provider" -m "$MODEL" \
  --dangerously-bypass-approvals-and-sandbox "please write the proof" </dev/null >log 2>&1
if [ "$(cat proof.txt 2>/dev/null)" = pointsman ]; then echo '{"check": "tool loop", "ok": true}'
else printf '{"check": "tool loop", "ok": false, "why": "%s"}\n' "$(tail -n 1 log | tr -d '"\\' | cut -c1-200)"; exit 1; fi
