# Claude Code: the agent's loop with its shell, over Messages. $1 is the folder of its packages.
export HOME=$PWD/home IS_SANDBOX=1 DISABLE_TELEMETRY=1 CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1; mkdir -p "$HOME"
export ANTHROPIC_MODEL=$MODEL ANTHROPIC_SMALL_FAST_MODEL=$MODEL
timeout 120 "$1/node_modules/.bin/claude" -p "please write the proof" --model "$MODEL" \
  --dangerously-skip-permissions </dev/null >log 2>&1
if [ "$(cat proof.txt 2>/dev/null)" = pointsman ]; then echo '{"check": "tool loop", "ok": true}'
else printf '{"check": "tool loop", "ok": false, "why": "%s"}\n' "$(tail -n 1 log | tr -d '"\\' | cut -c1-200)"; exit 1; fi
