# shellcheck shell=sh
# lib.sh - what the scripts of this folder share: their words, one request, waiting for a job.
#
# Options that every script takes: --url, --token-file, --timeout, --json, --help; in the environment
# MALMEND_URL (http://127.0.0.1:8780, https://host, unix:/path), MALMEND_TOKEN, MALMEND_TOKEN_FILE and
# MALMEND_TIMEOUT. The token never stands on a command line: curl reads it from its standard input.
#
# Exit codes: 0 done, 1 failed or rejected, 2 wrong usage, 3 the daemon cannot be reached, 4 timed out.

# shellcheck disable=SC2034 # what is set here is for the scripts

FAILED=1 USAGE=2 UNREACHABLE=3 TIMED_OUT=4

program=$(basename "$0" .sh)
program=malmend-${program#malmend-}
url=${MALMEND_URL:-http://127.0.0.1:8780}
token=${MALMEND_TOKEN:-}
token_file=${MALMEND_TOKEN_FILE:-}
timeout=${MALMEND_TIMEOUT:-3600}
json=
valued=      # further options that have a value
tmp=

# ---- Words ----

say() { printf '%s: %s\n' "$program" "$*" >&2; }

# die CODE TEXT: the last word; with --json also on stdout.
die() {
    code=$1
    shift
    say "$*"
    [ -z "$json" ] || jq -cn --arg detail "$*" --argjson exit "$code" \
        '{error: {detail: $detail}, exit: $exit}'
    exit "$code"
}

usage() {
    say "$*"
    printf "See '%s --help'.\n" "$program" >&2
    exit "$USAGE"
}

# What stands at the top of the script.
help() { sed -n '2,/^[^#]/ s/^# \{0,1\}//p' "$0"; }

# next_word WORDS...: the first of them is $option, with its $value, or $operand; $taken words are used
# up. What every script takes is dealt with here and leaves $option empty.
next_word() {
    option='' value='' operand='' taken=1 attached=
    case $1 in
    --*=*) option=${1%%=*} value=${1#*=} attached=yes ;;
    --?*) option=$1 ;;
    -h) option=--help ;;
    -?*) usage "there is no option $1" ;;
    *)
        operand=$1
        return
        ;;
    esac
    case " --url --token-file --timeout $valued " in
    *" $option "*)
        if [ -z "$attached" ]; then
            [ $# -ge 2 ] || usage "$option needs a value"
            value=$2 taken=2
        fi
        ;;
    *) [ -z "$attached" ] || usage "$option takes no value" ;;
    esac
    case $option in
    --url) url=$value ;;
    --token-file) token_file=$value ;;
    --timeout) timeout=$value ;;
    --json) json=yes ;;
    --help)
        help
        exit 0
        ;;
    *) return ;;
    esac
    option=''
}

need_number() {
    case $2 in
    '' | *[!0-9]* | ??????????*) usage "$1: '$2' is no number" ;;
    esac
}

# After the words: a folder for answers, the address, the token, the time there is.
begin() {
    for tool in curl jq; do
        command -v "$tool" >/dev/null || die "$FAILED" "$tool is not installed"
    done
    need_number --timeout "$timeout"
    deadline=$(($(date +%s) + timeout))
    begin_folder
    url=${url%/}
    case $url in
    unix:/*) ;;
    http://?* | https://?*) ;;
    *) usage "the address '$url' is neither http://, https:// nor unix:/path" ;;
    esac
    if [ -z "$token" ] && [ -n "$token_file" ]; then
        [ -r "$token_file" ] || die "$FAILED" "the token file '$token_file' cannot be read"
        IFS= read -r token <"$token_file" || [ -n "$token" ] ||
            die "$FAILED" "the token file '$token_file' is empty"
    fi
}

begin_folder() {
    tmp=$(mktemp -d) || exit "$FAILED"
    trap 'rm -rf "$tmp"' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
}

left() { echo $((deadline - $(date +%s))); }

# ---- One request ----

# option NAME VALUE: a line as curl's files of options have it.
option() {
    case $2 in
    *[\\\"]*) printf '%s = "%s"\n' "$1" "$(printf '%s' "$2" | sed 's/[\\"]/\\&/g')" ;;
    *) printf '%s = "%s"\n' "$1" "$2" ;;
    esac
}

# Where to, and as whom: for curl's standard input, where no other user sees it.
connection() {
    case $url in
    unix:*)
        option unix-socket "${url#unix:}"
        option url "http://localhost$1"
        ;;
    *) option url "$url$1" ;;
    esac
    [ -z "$token" ] || option header "Authorization: Bearer $token"
}

# call METHOD PATH [SECONDS [LINES]]: one request that takes so long at most, with further lines of
# options. $status, the body in $tmp/body, the headers in $tmp/head. 000: no answer, why is in $tmp/why.
call() {
    rm -f "$tmp/body" "$tmp/head"
    status=$({
        connection "$2"
        option request "$1"
        option max-time "${3:-60}"
        [ -z "${4:-}" ] || printf '%s\n' "$4"
    } | curl -q --silent --show-error --config - --connect-timeout 10 --dump-header "$tmp/head" \
        --output "$tmp/body" --write-out '%{http_code}' 2>"$tmp/why") || status=000
    [ -e "$tmp/body" ] || : >"$tmp/body"
}

# A header of the last answer.
header() {
    sed -n "s/^$1:[[:space:]]*//Ip" "$tmp/head" 2>/dev/null | tr -d '\r' | tail -n 1
}

is_gone() {
    case $status in
    000) return 0 ;;
    502 | 504) return 0 ;; # a proxy speaks, the daemon does not
    esac
    return 1
}

# Whether the answer was waited for until there was no time left.
is_late() { [ "$status" = 000 ] && [ "$(left)" -le 0 ] && grep -q '^curl: (28)' "$tmp/why"; }

unreachable() {
    why=$(sed 's/^curl: ([0-9]*) //' "$tmp/why" | head -n 1)
    die "$UNREACHABLE" "no answer from $url: ${why:-HTTP $status}"
}

# Ends with the problem that the last answer is, each field by its place.
refused() {
    title=$(jq -r '.title // empty' "$tmp/body" 2>/dev/null) || title=
    detail=$(jq -r '.detail // empty' "$tmp/body" 2>/dev/null) || detail=
    say "refused with $status${title:+ ($title)}${detail:+: $detail}"
    jq -r '.errors[]? | .pointer as $at | ($at | capture("^/facts/(?<i>[0-9]+)").i) as $i
           | "  fact \($i) (\($at)): \(.detail)"' "$tmp/body" >&2 2>/dev/null || true
    jq -r '.errors[]? | select(.pointer | test("^/facts/[0-9]+") | not)
           | "  \(.pointer): \(.detail)"' "$tmp/body" >&2 2>/dev/null || true
    [ -z "$json" ] || {
        jq -c --argjson exit "$FAILED" '{error: ., exit: $exit}' "$tmp/body" 2>/dev/null ||
            jq -cn --argjson exit "$FAILED" --argjson status "$status" \
                '{error: {status: $status}, exit: $exit}'
    }
    exit "$FAILED"
}

# Sleeps as long as the last answer asks for, or ends when that is longer than there is time.
hold_on() {
    seconds=$(header Retry-After)
    case $seconds in
    '' | *[!0-9]*) seconds=5 ;;
    esac
    why=$(jq -r '.detail // empty' "$tmp/body" 2>/dev/null) || why=
    if [ "$(left)" -le "$seconds" ]; then
        die "$TIMED_OUT" "timed out after $timeout s: the daemon answers $status${why:+ ($why)}"
    fi
    say "the daemon answers $status${why:+ ($why)}: again in $seconds s"
    sleep "$seconds"
}

# request METHOD PATH [LINES]: the same until it is answered; what is refused ends the script.
request() {
    while :; do
        seconds=$(left)
        [ "$seconds" -gt 0 ] || die "$TIMED_OUT" "timed out after $timeout s"
        call "$1" "$2" "$seconds" "${3:-}"
        case $status in
        2??) return ;;
        429 | 503) hold_on ;;
        *)
            ! is_late || die "$TIMED_OUT" "timed out after $timeout s: no answer from $url"
            ! is_gone || unreachable
            refused
            ;;
        esac
    done
}

# ---- Jobs ----

# ended FILE: whether the job in it is over.
ended() { jq -e '.state | IN("applied", "done", "rejected", "failed", "cancelled")' "$1" >/dev/null; }

# wait_job ID: until it has ended; then it is in $tmp/job. A daemon that goes away is waited for: its
# jobs are in its database.
wait_job() {
    etag=''
    while :; do
        seconds=$(left)
        if [ "$seconds" -le 0 ]; then
            ! is_gone || unreachable
            die "$TIMED_OUT" "timed out after $timeout s: $1 has not ended"
        fi
        [ "$seconds" -le 20 ] || seconds=20
        call GET "/v1/jobs/$1?wait=$seconds" "$((seconds + 10))" \
            "${etag:+$(option header "If-None-Match: $etag")}"
        case $status in
        200)
            mv "$tmp/body" "$tmp/job"
            etag=$(header ETag)
            ! ended "$tmp/job" || return 0
            ;;
        304) ;;
        429 | 503) sleep 1 ;;
        *)
            is_gone || refused
            sleep 1
            ;;
        esac
    done
}

# Prints the job in $tmp/job, and ends with 0 if it did what was asked.
tell_job() {
    if [ -n "$json" ]; then
        jq -c '{job: .}' "$tmp/job"
    else
        job_lines "$tmp/job"
    fi
    jq -e '.state | IN("applied", "done")' "$tmp/job" >/dev/null || exit "$FAILED"
}

job_lines() {
    jq -r '
        def share: if . == null then "-" else . * 1000 | round / 10 | tostring + " %" end;
        def shares: "facts \(.es | share), rephrases \(.gs | share), unrelated \(.ls | share)";
        def seconds: (.finished_at // "" | sub("\\.[0-9]+Z$"; "Z") | fromdateiso8601? // 0)
                     - (.started_at // "" | sub("\\.[0-9]+Z$"; "Z") | fromdateiso8601? // 0);
        "\(.id): \(.kind) \(.state)"
            + (if .version != null then ", version \(.version)" else "" end)
            + (if (.facts // 0) > 0 then ", \(.facts) facts" else "" end)
            + (if .finished_at and .started_at then ", \(seconds) s" else "" end),
        (.error // empty | "  \(.title // "error"): \(.detail // "")"),
        (.result.measures // empty
            | (.decoded // empty | "  whole answers:  \(shares)"),
              (.teacher_forced // empty | "  single tokens:  \(shares)"),
              (.agreement // empty | "  answered as before: \(share)")),
        (.result.gate.failed // [] | .[]
            | "  gate: \(.detail // "\(.test) is \(.value), the limit \(.threshold)")")' "$1"
}

# change PATH WAIT: posts $tmp/request, and waits for the job and tells it, or tells that it is queued.
change() {
    request POST "$1" "$(
        option data-binary "@$tmp/request"
        option header 'Content-Type: application/json'
    )"
    mv "$tmp/body" "$tmp/job"
    id=$(jq -r .id "$tmp/job")
    if [ -n "$2" ]; then
        wait_job "$id"
        tell_job
    elif [ -n "$json" ]; then
        jq -c '{job: .}' "$tmp/job"
    else
        echo "$id"
    fi
}
