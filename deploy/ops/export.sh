#!/bin/sh
# Downloads a version's difference from the base model.
#
#   malmend-export [options] VERSION FILE
#
# VERSION is a number, or `live`. FILE gets its name when all of it is there; until then what has come
# is in FILE.part, from where the next call goes on.
#
#   --format FORMAT   safetensors (the default) or lora: a tar of the two files of a PEFT adapter
#   --url ADDRESS     http://127.0.0.1:8780 or unix:/path (MALMEND_URL)
#   --token-file FILE its first line is the token (MALMEND_TOKEN_FILE; or MALMEND_TOKEN)
#   --timeout SECONDS for all of it (MALMEND_TIMEOUT, 3600)
#   --json            one JSON object on standard output
#
# Exit codes: 0 done, 1 failed, 2 wrong usage, 3 the daemon cannot be reached, 4 timed out. After 3 and
# 4 call it again.
set -eu
# shellcheck source=deploy/ops/lib.sh
. "$(dirname "$(readlink -f "$0")")/lib.sh"

valued=--format
version='' file='' format=safetensors
while [ $# -gt 0 ]; do
    next_word "$@"
    shift "$taken"
    case $option in
    '')
        if [ -z "$version" ]; then
            version=$operand
        elif [ -z "$file" ]; then
            file=$operand
        elif [ -n "$operand" ]; then
            usage "unexpected '$operand'"
        fi
        ;;
    --format) format=$value ;;
    *) usage "there is no option $option" ;;
    esac
done
[ -n "$file" ] || usage "a version and a file are needed"
[ ! -d "$file" ] || usage "'$file' is a directory"
[ -w "$(dirname -- "$file")" ] || die "$FAILED" "'$file': its directory is not there, or cannot be written to"
[ "$version" = live ] || need_number VERSION "$version"
case $format in
safetensors | lora) ;;
*) usage "--format: '$format' is neither safetensors nor lora" ;;
esac
begin

if [ "$version" = live ]; then
    request GET /v1/status
    version=$(jq -r '.live_version // empty' "$tmp/body")
    [ -n "$version" ] || die "$FAILED" "there is no version yet"
fi
path="/v1/versions/$version/delta?format=$format"

# The tag of what FILE.part is a part of stands beside it.
part=$file.part tag_file=$file.part.etag
size_of() { if [ -e "$1" ]; then wc -c <"$1" | tr -d ' '; else echo 0; fi; }

# One byte: whether it is there, how long it is, and whether the part is one of it.
look() {
    request GET "$path" "$(option header 'Range: bytes=0-0')"
    whole=$(header Content-Range | sed 's/.*\///')
    [ "$status" = 206 ] || whole=$(header Content-Length)
    tag=$(header ETag)
    [ "$(cat "$tag_file" 2>/dev/null || :)" = "$tag" ] || rm -f "$part"
    [ "$(size_of "$part")" -le "$whole" ] || rm -f "$part"
    printf '%s\n' "$tag" >"$tag_file"
}

# What is missing, straight into the part: what has come stays, whatever ends this.
fetch() {
    seconds=$(left)
    [ "$seconds" -gt 0 ] ||
        die "$TIMED_OUT" "timed out after $timeout s, $(size_of "$part") of $whole bytes are there"
    {
        connection "$path"
        option header "If-Range: $tag"
        option max-time "$seconds"
    } | curl -q --silent --show-error --fail --config - --connect-timeout 10 --continue-at - \
        --dump-header "$tmp/head" --output "$part" 2>"$tmp/why" || :
}

look
while [ "$(size_of "$part")" != "$whole" ]; do
    before=$(size_of "$part")
    fetch
    now=$(size_of "$part")
    [ "$now" != "$whole" ] || break
    if [ "$now" -le "$before" ]; then # not cut off: gone, or another file by now
        sleep 1
        look
        continue
    fi
    say "cut off at $now of $whole bytes, going on"
done
tag=$(cat "$tag_file")
mv "$part" "$file"
rm -f "$tag_file"
if [ -n "$json" ]; then
    jq -cn --arg file "$file" --argjson version "$version" --arg format "$format" \
        --argjson bytes "$whole" --arg etag "$tag" \
        '{file: $file, version: $version, format: $format, bytes: $bytes, etag: $etag}'
else
    echo "$file: version $version, $format, $whole bytes"
fi
