# aider: one message that makes a file, with its answer streamed. $1 is its Python.
export HOME=$PWD/home; mkdir -p "$HOME"
for stream in --stream --no-stream; do
  rm -f proof.txt
  OPENAI_API_BASE=$OPENAI_BASE_URL timeout 120 "$1" -m aider --model "openai/$MODEL" --edit-format whole --no-git --yes-always \
    --no-check-update --no-show-model-warnings --analytics-disable --no-show-release-notes $stream \
    --message "please write the proof" proof.txt </dev/null >log 2>&1
  if [ "$(cat proof.txt 2>/dev/null)" = pointsman ]; then echo "{\"check\": \"edit ${stream#--}\", \"ok\": true}"
  else printf '{"check": "edit %s", "ok": false, "why": "%s"}\n' "${stream#--}" "$(tail -n 3 log | tr -d '"\\\n' | cut -c1-200)"; fi
done
