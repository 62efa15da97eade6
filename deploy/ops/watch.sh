#!/bin/sh
# Follows what a malmend daemon does: a line for each change of a job, each new version, and the
# progress of the batch that runs.
#
#   malmend-watch [options]
#
#   --job JOB         only this one, until it has ended
#   --idle            until nothing is queued and nothing runs
#   --interval S      seconds between two looks at the progress (2)
#   --poll            ask for the jobs again and again, even if the daemon has /v1/events
#   --url ADDRESS     http://127.0.0.1:8780 or unix:/path (MALMEND_URL)
#   --token-file FILE its first line is the token (MALMEND_TOKEN_FILE; or MALMEND_TOKEN)
#   --timeout SECONDS for all of it (MALMEND_TIMEOUT, here: no end)
#   --json            an object a line
#
# A daemon that goes away is waited for. What happened meanwhile is told when it is back.
#
# Exit codes: 0 done (the job did what was asked; idle), 1 the job failed or was rejected, 2 wrong
# usage, 3 the daemon cannot be reached at the beginning, 4 timed out.
set -eu
# shellcheck source=deploy/ops/lib.sh
. "$(dirname "$(readlink -f "$0")")/lib.sh"

valued='--job --interval'
timeout=${MALMEND_TIMEOUT:-999999999}
job='' idle='' interval=2 poll='' events=''
while [ $# -gt 0 ]; do
    next_word "$@"
    shift "$taken"
    [ -z "$operand" ] || usage "unexpected '$operand'"
    case $option in
    '') ;;
    --job) job=$value ;;
    --idle) idle=yes ;;
    --interval) interval=$value ;;
    --poll) poll=yes ;;
    *) usage "there is no option $option" ;;
    esac
done
need_number --interval "$interval"
[ "$interval" -ge 1 ] || usage "--interval: 1 at least"
[ -z "$job" ] || [ -z "$idle" ] || usage "either --job or --idle"
begin
trap 'stop_events; rm -rf "$tmp"' EXIT

# ---- Telling ----

# tell TYPE: the object on standard input, with what it is about.
tell() {
    if [ -n "$json" ]; then
        jq -c --arg event "$1" '{event: $event} + .'
        return
    fi
    jq -r --arg event "$1" --arg time "$(date +%H:%M:%S)" '$time + " " +
        if $event == "job" then
            "\(.id) \(.kind) \(.state)" + (if .version then ", version \(.version)" else "" end)
        elif $event == "version" then
            "version \(.version) \(.kind // "")" + (if .weights_hash then ", weights \(.weights_hash[:16])" else "" end)
        elif $event == "progress" then
            "  \(.facts) facts: \(.stage) \(.done)" + (if .total > 0 then " of \(.total)" else "" end)
        else "\(.state): version \(.live_version), \(.queue.jobs) jobs queued" end'
}

# ---- Events ----

# The daemon's stream, in the background, into $tmp/stream. Returns when it has begun, or ended.
start_events() {
    told=0
    rm -f "$tmp/stream.head"
    : >"$tmp/stream"
    {
        connection /v1/events
        option header 'Accept: text/event-stream'
        [ -z "$last_id" ] || option header "Last-Event-ID: $last_id"
    } | curl -q --silent --no-buffer --fail --config - --connect-timeout 10 --dump-header \
        "$tmp/stream.head" >"$tmp/stream" 2>/dev/null &
    events=$!
    while kill -0 "$events" 2>/dev/null && [ ! -s "$tmp/stream.head" ]; do sleep 0.2; done
}

# Whether the daemon has no such call.
lacks_events() {
    case $(sed -n '1s/^HTTP[^ ]* \([0-9]*\).*/\1/p' "$tmp/stream.head" 2>/dev/null) in
    404 | 405 | 501) return 0 ;;
    esac
    return 1
}

stop_events() {
    [ -z "$events" ] || kill "$events" 2>/dev/null || :
    [ -z "$events" ] || wait "$events" 2>/dev/null || :
    events=''
}

# Tells the events that have come since the last call, whole ones only.
take_events() {
    lines=$(wc -l <"$tmp/stream" | tr -d ' ')
    [ "$lines" -gt "$told" ] || return 0
    sed -n "$((told + 1)),${lines}p" "$tmp/stream" | tr -d '\r' >"$tmp/new"
    told=$lines
    while IFS= read -r line; do
        case $line in
        'id:'*) id=${line#id:} id=${id# } ;;
        'event:'*) type=${line#event:} type=${type# } ;;
        'data:'*) data=${line#data:} ;;
        '')
            last_id=$id # also of a message without data, which says where the stream begins
            [ -z "$data" ] || take_event
            type='' data=''
            ;;
        esac
    done <"$tmp/new"
}

take_event() {
    [ -z "$job" ] || [ "$type" != job ] || printf '%s' "$data" |
        jq -e --arg job "$job" '.id == $job' >/dev/null || return 0
    [ -z "$job" ] || [ "$type" = job ] || return 0
    case $type in
    job | version) printf '%s' "$data" | tell "$type" ;;
    esac
}

# ---- Asking ----

# Jobs as they are now; those that are not as they were are told.
poll_jobs() {
    call GET '/v1/jobs?limit=100'
    [ "$status" = 200 ] || return 0
    jq -c '.data | reverse | .[] | {id, kind, state, version}' "$tmp/body" >"$tmp/jobs.new"
    if [ -e "$tmp/jobs" ]; then
        grep -vxFf "$tmp/jobs" "$tmp/jobs.new" >"$tmp/changed" || :
        while IFS= read -r line; do
            case $line in
            *"\"$job"*) printf '%s' "$line" | tell job ;;
            esac
        done <"$tmp/changed"
    fi
    mv "$tmp/jobs.new" "$tmp/jobs"
}

# The batch, where it is another than before; without events also a new version.
poll_status() {
    call GET /v1/status
    [ "$status" = 200 ] || return 0
    mv "$tmp/body" "$tmp/status"
    jq -c --arg job "$job" '.batch // empty | select($job == "" or (.jobs | index($job)))
        | {jobs, facts, stage, done, total}' "$tmp/status" >"$tmp/batch"
    if [ -s "$tmp/batch" ] && ! cmp -s "$tmp/batch" "$tmp/batch.before"; then
        tell progress <"$tmp/batch"
    fi
    mv "$tmp/batch" "$tmp/batch.before"
    [ -n "$poll" ] && [ -z "$job" ] || return 0
    now=$(jq -r '.live_version' "$tmp/status")
    [ "$now" = "$version" ] || jq -c '{version: .live_version, weights_hash}' "$tmp/status" | tell version
    version=$now
}

# ---- Until when ----

job_ended() {
    call GET "/v1/jobs/$job"
    case $status in
    200) ended "$tmp/body" || return 1 ;;
    4??) refused ;;
    *) return 1 ;;
    esac
    mv "$tmp/body" "$tmp/job"
}

finished() {
    if [ -n "$job" ]; then
        job_ended || return 1
        # What the last look at events or jobs did not see yet.
        sleep 1
        look
        tell_job
        exit 0
    fi
    [ -n "$idle" ] && [ -e "$tmp/status" ] || return 1
    jq -e '.state == "ready" and .batch == null and .queue.jobs == 0' "$tmp/status" >/dev/null
}

look() {
    if [ -n "$poll" ]; then poll_jobs; else take_events; fi
    poll_status
}

# ---- Start ----

told=0 last_id='' id='' type='' data=''
: >"$tmp/batch.before"
if [ -z "$poll" ]; then # before the first look: nothing falls between the two
    start_events
    ! lacks_events || poll=yes
fi
request GET /v1/status
mv "$tmp/body" "$tmp/status"
version=$(jq -r .live_version "$tmp/status")
[ -n "$job" ] || jq -c '{state, live_version, queue}' "$tmp/status" | tell status
[ -z "$poll" ] || poll_jobs
while ! finished; do
    [ "$(left)" -gt 0 ] || die "$TIMED_OUT" "timed out after $timeout s"
    if [ -z "$poll" ] && ! kill -0 "$events" 2>/dev/null; then
        take_events
        start_events
    fi
    look
    sleep "$interval"
done
look
