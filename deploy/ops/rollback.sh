#!/bin/sh
# Returns a malmend daemon to an earlier (or later) version of the weights.
#
#   malmend-rollback [options] VERSION
#
# A rollback is a new version with the old weights and the facts that were live then; rolling back to
# the version of before takes it back.
#
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

valued=--reason
version='' reason='' wait=yes
while [ $# -gt 0 ]; do
    next_word "$@"
    shift "$taken"
    case $option in
    '')
        [ -n "$operand" ] || continue
        [ -z "$version" ] || usage "one version, not '$operand' too"
        version=$operand
        ;;
    --reason) reason=$value ;;
    --no-wait) wait='' ;;
    *) usage "there is no option $option" ;;
    esac
done
[ -n "$version" ] || usage "a version is needed"
need_number VERSION "$version"
begin

jq -cn --argjson to "$version" --arg reason "$reason" \
    '{to_version: $to} + (if $reason != "" then {reason: $reason} else {} end)' >"$tmp/request"
change /v1/rollbacks "$wait"
