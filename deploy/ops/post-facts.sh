#!/bin/sh
# Posts a file of facts to a malmend daemon.
#
#   malmend-post-facts [options] FILE
#
# FILE (- for standard input) holds {"facts": [...]}, an array of facts, or a fact a line (NDJSON), such as
# 'malmend facts' makes of a data set.
#
#   --wait            until the job has ended; prints its measures and the facts that stayed wrong
#   --strict          with --wait: a fact that stayed wrong, or was taken back since the same file was
#                     posted before, is a failure
#   --validate        only ask whether the facts are fine; nothing is queued
#   --note TEXT       kept with the job
#   --gate NAME=X     stricter than the daemon's own gate, such as min_es=0.95; may be repeated
#   --again           post it even if the same file was posted before
#   --url ADDRESS     http://127.0.0.1:8780 or unix:/path (MALMEND_URL)
#   --token-file FILE its first line is the token (MALMEND_TOKEN_FILE; or MALMEND_TOKEN)
#   --timeout SECONDS for all of it (MALMEND_TIMEOUT, 3600)
#   --json            one JSON object on standard output
#
# The same file posted again gets the job of the first time (Idempotency-Key is made of its bytes), so
# a retry does not post twice, and is told where its facts were taken back since. A full queue is waited for.
#
# Exit codes: 0 done, 1 failed or rejected, 2 wrong usage, 3 the daemon cannot be reached, 4 timed out.
set -eu
# shellcheck source=deploy/ops/lib.sh
. "$(dirname "$(readlink -f "$0")")/lib.sh"

SHOWN=20 # facts that stayed wrong

valued='--note --gate'
file='' wait='' strict='' validate='' note='' gate='{}' again=''

add_gate() {
    name=${1%%=*} number=${1#*=}
    [ "$name" != "$1" ] || usage "--gate: '$1' is not NAME=X"
    gate=$(printf '%s' "$gate" | jq -c --arg name "$name" --arg number "$number" \
        '. + {($name): ($number | fromjson? // .)}')
}

while [ $# -gt 0 ]; do
    next_word "$@"
    shift "$taken"
    case $option in
    '')
        [ -n "$operand" ] || continue
        [ -z "$file" ] || usage "one file, not '$operand' too"
        file=$operand
        ;;
    --wait) wait=yes ;;
    --strict) strict=yes ;;
    --validate) validate=yes ;;
    --note) note=$value ;;
    --gate) add_gate "$value" ;;
    --again) again=yes ;;
    *) usage "there is no option $option" ;;
    esac
done
[ -n "$file" ] || usage "a file of facts is needed"
[ -z "$strict" ] || [ -n "$wait" ] || usage "--strict is for --wait"
[ -z "$validate" ] || [ -z "$wait" ] || usage "--validate posts nothing to wait for"
begin

shown="'$file'"
if [ "$file" = - ]; then
    cat >"$tmp/facts"
    file=$tmp/facts shown="standard input"
fi
[ -r "$file" ] || die "$FAILED" "$shown cannot be read"

# What the body is besides the facts.
more() {
    jq -cn --arg note "$note" --argjson gate "$gate" --arg validate "$validate" '
        (if $note != "" then {note: $note} else {} end)
        + (if $gate != {} then {gate: $gate} else {} end)
        + (if $validate != "" then {validate_only: true} else {} end)'
}

# By the first value in the file: what it is, and so what is sent of it.
form=$(jq -rn 'input | if type == "array" then "array"
                       elif type == "object" and has("facts") then "request"
                       elif type == "object" then "lines" else "none" end' "$file" 2>"$tmp/why") ||
    die "$FAILED" "$shown is not JSON: $(head -n 1 "$tmp/why")"
type=application/json
case $form in
array) jq -c --argjson more "$(more)" '{facts: .} + $more' "$file" >"$tmp/request" ;;
request) jq -c --argjson more "$(more)" '. + $more' "$file" >"$tmp/request" ;;
lines)
    if [ "$(more)" = '{}' ]; then
        cp "$file" "$tmp/request"
        type=application/x-ndjson
    else
        jq -cs --argjson more "$(more)" '{facts: .} + $more' "$file" >"$tmp/request"
    fi
    ;;
*) false ;;
esac 2>"$tmp/why" || die "$FAILED" "$shown holds no facts: $(head -n 1 "$tmp/why")"

key=post-facts-$(sha256sum "$tmp/request" | cut -c 1-64)
[ -z "$again" ] || key=$key-$(date +%s)-$$
request POST /v1/edits "$(
    option data-binary "@$tmp/request"
    option header "Content-Type: $type"
    option header "Expect:"
    option header "Idempotency-Key: $key"
)"

if [ -n "$validate" ]; then
    if [ -n "$json" ]; then
        jq -c . "$tmp/body"
    else
        jq -r '"fine: \(.facts) facts, \(.tokens) tokens to teach"' "$tmp/body"
    fi
    exit 0
fi
mv "$tmp/body" "$tmp/job"
id=$(jq -r .id "$tmp/job")
gone=''
if [ -n "$(header Idempotent-Replayed)" ]; then
    for state in rolled_back retracted; do
        request GET "/v1/facts?job=$id&state=$state&limit=1"
        ! jq -e '.data != []' "$tmp/body" >/dev/null || gone=yes
    done
fi
[ -z "$gone" ] || say "posted before as $id, and taken back since (rolled back or retracted): --again teaches it anew"
if [ -z "$wait" ]; then
    if [ -n "$json" ]; then jq -c '{job: .}' "$tmp/job"; else echo "$id"; fi
    exit 0
fi

wait_job "$id"
: >"$tmp/wrong"
for fact in $(jq -r ".result.wrong // [] | .[:$SHOWN][]" "$tmp/job"); do
    request GET "/v1/facts/$fact"
    jq -c '{id, prompt, target, verified}' "$tmp/body" >>"$tmp/wrong"
done
n_wrong=$(jq '.result.wrong // [] | length' "$tmp/job")
if [ -n "$json" ]; then
    jq -c --slurpfile wrong "$tmp/wrong" '{job: ., wrong: $wrong}' "$tmp/job"
else
    job_lines "$tmp/job"
    [ "$n_wrong" -eq 0 ] || echo "$n_wrong of them stayed wrong:"
    jq -r '"  \(.id): \(.prompt) -> \(.target)"' "$tmp/wrong"
    [ "$n_wrong" -le "$SHOWN" ] || echo "  and $((n_wrong - SHOWN)) more"
fi
jq -e '.state == "applied"' "$tmp/job" >/dev/null || exit "$FAILED"
[ -z "$strict" ] || [ -z "$gone" ] || exit "$FAILED"
[ -z "$strict" ] || [ "$n_wrong" -eq 0 ] || {
    say "$n_wrong facts stayed wrong"
    exit "$FAILED"
}
