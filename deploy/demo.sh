#!/bin/bash
# The main job, start to end: builds malmend, serves the demo model, teaches it a batch of facts
# over HTTP, kills the daemon, starts it again, takes one fact back, and rolls back.
set -euo pipefail
cd "$(dirname "$0")/.."

build=${MALMEND_BUILD:-build}
state=${MALMEND_DEMO_STATE:-$build/demo}
address=127.0.0.1:${MALMEND_DEMO_PORT:-8780}
url=http://$address
model=tests/demo/model
editor=tests/demo/editor.safetensors
facts=tests/demo/facts/demo-edit.json
shown=6

say() { printf '\n%s\n' "$*"; }

sh deploy/setup.sh
[ -f "$build/build.ninja" ] || meson setup "$build" >/dev/null
ninja -C "$build" --quiet daemon/malmend
malmend=$build/daemon/malmend

rm -rf "$state"
mkdir -p "$state"
pid=
trap '[ -z "$pid" ] || kill -9 "$pid" 2>/dev/null || true' EXIT

start() {
    "$malmend" serve --model "$model" --editor "$editor" \
        --db "$state/malmend.db" --listen "$address" 2>>"$state/log" &
    pid=$!
    for _ in $(seq 600); do
        if curl -sf "$url/readyz" >/dev/null; then return; fi
        kill -0 "$pid" 2>/dev/null || { tail -n 3 "$state/log" >&2; exit 1; }
        sleep 0.1
    done
    echo "the daemon does not become ready; see $state/log" >&2
    exit 1
}

# The greedy answers to the first facts' prompts, up to the full stop, a line each.
answers() {
    jq -c "{model: \"live\", max_tokens: 12, stop: [\".\"], prompt: [.facts[:$shown][].prompt]}" \
        "$facts" | curl -sf "$url/v1/completions" -H 'Content-Type: application/json' -d @- |
        jq -r '.choices | sort_by(.index)[].text | ltrimstr(" ")'
}

# Posts a body to a path, waits for the job to end, and prints the job.
job() {
    local id
    id=$(curl -sf "$url$1" -H 'Content-Type: application/json' -d "$2" | jq -r .id)
    for _ in $(seq 20); do
        curl -sf "$url/v1/jobs/$id?wait=20" >"$state/job"
        case $(jq -r .state "$state/job") in applied|rejected|failed|cancelled) break ;; esac
    done
    cat "$state/job"
}

# Columns as wide as their widest cell.
table() {
    awk -F '\t' '{ for (i = 1; i <= NF; i++) { cell[NR, i] = $i
                       if (length($i) > width[i]) width[i] = length($i) } }
                 END { for (r = 1; r <= NR; r++) { line = ""
                       for (i = 1; i <= NF; i++) line = line sprintf("%-" width[i] "s  ", cell[r, i])
                       print "  " line } }'
}

hash_of() { curl -sf "$url/v1/versions/$1" | jq -r .weights_hash; }

start
answers >"$state/before"
say "Posting $(jq '.facts | length' "$facts") facts to $url/v1/edits:"
job /v1/edits "@$facts" |
    jq -c '{id, state, version, right: .result.measures.decoded.es,
            unrelated_unchanged: .result.measures.agreement}'
answers >"$state/after"
kill -9 "$pid"
wait "$pid" 2>/dev/null || true
start
answers >"$state/restarted"
first=$(jq -r '.facts[0].prompt' "$facts")
taken=$(curl -sfG "$url/v1/facts" --data-urlencode "prompt=$first" | jq -r '.data[0].id')
job /v1/retractions "{\"facts\": [\"$taken\"], \"reason\": \"demo\"}" |
    jq -c '{id, kind, state, version}'
answers >"$state/retracted"
job /v1/rollbacks '{"to_version": 0, "reason": "demo"}' | jq -c '{id, kind, state, version}'
answers >"$state/rolled_back"

say "What the model says:"
{
    printf 'PROMPT\tTAUGHT\tBEFORE\tAFTER EDIT\tKILL -9, RESTART\tFIRST RETRACTED\tROLLBACK\n'
    paste <(jq -r ".facts[:$shown][] | [.prompt, .target] | @tsv" "$facts") \
        "$state/before" "$state/after" "$state/restarted" "$state/retracted" \
        "$state/rolled_back"
} | table

say "Versions (rolling back makes a new one with the old weights):"
last=$(curl -sf "$url/v1/status" | jq -r .live_version)
for version in $(seq 0 "$last"); do
    curl -sf "$url/v1/versions/$version" |
        jq -r '"  \(.version)  \(.kind)\t weights \(.weights_hash[:16])  chain \(.chain_hash[:16])"'
done
[ "$(hash_of "$last")" = "$(hash_of 0)" ] || { echo "the rollback's weights differ" >&2; exit 1; }
"$malmend" verify --db "$state/malmend.db" --model "$model" 2>/dev/null

say "The daemon stops now. To go on by hand:
  $malmend serve --model $model --editor $editor --db $state/malmend.db --listen $address &
  curl $url/v1/status
  curl $url/v1/edits -H 'Content-Type: application/json' -d @$facts
  curl '$url/v1/jobs?limit=1'
  curl $url/v1/rollbacks -H 'Content-Type: application/json' -d '{\"to_version\": 1}'"
