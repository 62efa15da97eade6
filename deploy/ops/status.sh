#!/bin/sh
# Says how a malmend daemon is, for people and for monitoring.
#
#   malmend-status [options]
#
#   --url ADDRESS     http://127.0.0.1:8780 or unix:/path (MALMEND_URL)
#   --token-file FILE its first line is the token (MALMEND_TOKEN_FILE; or MALMEND_TOKEN)
#   --timeout SECONDS for the answer (MALMEND_TIMEOUT, 10 here)
#   --json            what /v1/status says, on one line
#
# Exit codes: 0 it is ready, 1 it is not, or refuses to say, 2 wrong usage, 3 it cannot be reached,
# 4 timed out.
set -eu
# shellcheck source=deploy/ops/lib.sh
. "$(dirname "$(readlink -f "$0")")/lib.sh"

timeout=${MALMEND_TIMEOUT:-10}
while [ $# -gt 0 ]; do
    next_word "$@"
    shift "$taken"
    [ -z "$operand" ] || usage "unexpected '$operand'"
    [ -z "$option" ] || usage "there is no option $option"
done
begin

request GET /v1/status
if [ -n "$json" ]; then
    jq -c . "$tmp/body"
else
    jq -r '
        def size: if . >= 1073741824 then "\(. / 107374182.4 | round / 10) GiB"
                  elif . >= 1048576 then "\(. / 1048576 | round) MiB" else "\(. / 1024 | round) KiB" end;
        "\(.state): version \(.live_version // "none"), \(.counts.live_facts) live facts, up \(.uptime_seconds | round) s",
        (.model // empty | "model: \(.name), \(.architecture), \(.parameters) parameters, \(.dtype) on \(.device)"),
        (.editor // empty | "editor: \(.method // "none yet"), \(.modules | length) modules, \(.update)"),
        "queue: \(.queue.jobs) jobs, \(.queue.facts) of \(.queue.capacity) facts"
            + (if .queue.jobs > 0 then ", the oldest waits \(.queue.oldest_seconds | round) s" else "" end),
        (.batch // empty | "batch: \(.facts) facts, \(.stage) \(.done)" + (if .total > 0 then " of \(.total)" else "" end) + ", since \(.started_at)"),
        "memory: \(.memory.device_bytes | size) of the device, \(.memory.host_bytes | size) of the host",
        (.disk // empty | select(.free_bytes != null)
            | "disk: \(.free_bytes | size) free" + (if .low then ", too little for edits" else "" end)),
        (.last_error // empty | "last error: \(.title // ""): \(.detail // "")")' "$tmp/body"
fi
jq -e '.state == "ready"' "$tmp/body" >/dev/null || exit "$FAILED"
