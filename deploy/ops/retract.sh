#!/bin/sh
# Takes facts back that a malmend daemon was taught.
#
#   malmend-retract [options] FACT...
#   malmend-retract [options] --job JOB
#   malmend-retract [options] --from FILE
#
# FACT is an id (fact_...); FILE holds such ids (- for standard input), what follows a # does not count;
# JOB (job_...) stands for all live facts that it taught.
#
#   --mode pin|drop   pin (the default): the base model's answer comes back and stays;
#                     drop: as if the fact had never been posted, also one that was pinned
#   --reason TEXT     kept with the job
#   --no-wait         until it is queued, not until it is done
#   --url ADDRESS     http://127.0.0.1:8780 or unix:/path (MALMEND_URL)
#   --token-file FILE its first line is the token (MALMEND_TOKEN_FILE; or MALMEND_TOKEN)
#   --timeout SECONDS for all of it (MALMEND_TIMEOUT, 3600)
#   --json            one JSON object on standard output
#
# Exit codes: 0 done, 1 failed, 2 wrong usage, 3 the daemon cannot be reached, 4 timed out.
set -eu
# shellcheck source=deploy/ops/lib.sh
. "$(dirname "$(readlink -f "$0")")/lib.sh"

valued='--job --from --mode --reason'
facts='' job='' from='' mode='' reason='' wait=yes
while [ $# -gt 0 ]; do
    next_word "$@"
    shift "$taken"
    case $option in
    '') facts="$facts $operand" ;;
    --job) job=$value ;;
    --from) from=$value ;;
    --mode) mode=$value ;;
    --reason) reason=$value ;;
    --no-wait) wait='' ;;
    *) usage "there is no option $option" ;;
    esac
done
facts=${facts# }
case $mode in
'' | pin | drop) ;;
*) usage "--mode: '$mode' is neither pin nor drop" ;;
esac
given=0
for one in "$facts" "$job" "$from"; do
    [ -z "$(printf '%s' "$one" | tr -d ' ')" ] || given=$((given + 1))
done
[ "$given" -eq 1 ] || usage "either ids of facts, or --job, or --from"
begin

case $from in
'') printf '%s\n' "$facts" ;;
-) cat ;;
*)
    [ -r "$from" ] || die "$FAILED" "'$from' cannot be read"
    cat "$from"
    ;;
esac | sed 's/#.*//' | tr -s ' \t\r' '\n' >"$tmp/ids"
jq -cn --rawfile ids "$tmp/ids" --arg job "$job" --arg mode "$mode" --arg reason "$reason" '
    (if $job != "" then {job: $job}
     else {facts: ($ids | split("\n") | map(select(. != "" and (startswith("#") | not))))} end)
    + (if $mode != "" then {mode: $mode} else {} end)
    + (if $reason != "" then {reason: $reason} else {} end)' >"$tmp/request"
jq -e '.job or (.facts | length > 0)' "$tmp/request" >/dev/null ||
    die "$FAILED" "'$from' holds no id"
change /v1/retractions "$wait"
