#!/bin/sh
# Copies the database of a malmend daemon, running or not, checks the copy, and keeps the last few.
#
#   malmend-backup [options]
#
#   --db FILE         the database (MALMEND_DB, else "db" of the configuration)
#   --dir DIR         where copies are (MALMEND_BACKUPS, /var/lib/malmend/backups)
#   --keep N          how many of them stay, the new one with them (14); 0: all
#   --model DIR       also replay every version of the copy on the base model
#   --config FILE     /etc/malmend/malmend.json (MALMEND_CONFIG)
#   --json            one JSON object on standard output
#
# It runs as a user that may read the database and write the directory, without the daemon's address.
# A copy is DIR/malmend-TIME.db, with the editor beside it that a daemon made where it was given none;
# one that does not hold is removed, and the older ones stay.
#
# Exit codes: 0 done, 1 failed, 2 wrong usage.
set -eu
# shellcheck source=deploy/ops/lib.sh
. "$(dirname "$(readlink -f "$0")")/lib.sh"

valued='--db --dir --keep --model --config'
malmend=${MALMEND_BIN:-malmend}
config=${MALMEND_CONFIG:-/etc/malmend/malmend.json}
db=${MALMEND_DB:-}
dir=${MALMEND_BACKUPS:-/var/lib/malmend/backups}
keep=14 model=''
while [ $# -gt 0 ]; do
    next_word "$@"
    shift "$taken"
    [ -z "$operand" ] || usage "unexpected '$operand'"
    case $option in
    '') ;;
    --db) db=$value ;;
    --dir) dir=$value ;;
    --keep) keep=$value ;;
    --model) model=$value ;;
    --config) config=$value ;;
    *) usage "there is no option $option" ;;
    esac
done
need_number --keep "$keep"
begin_folder
[ -n "$db" ] || ! [ -r "$config" ] || db=$(jq -r '.db // empty' "$config")
[ -n "$db" ] || usage "--db is needed: there is no $config that names it"
[ -d "$dir" ] || die "$FAILED" "the directory '$dir' is not there"

# The binary's own last line.
reason() { sed -n 's/^malmend: //p' "$tmp/why" | tail -n 1; }

# One at a time: the lock goes with the process.
exec 9>"$dir/.malmend-backup.lock"
flock -n 9 || die "$FAILED" "another backup into '$dir' is running"
copy=$dir/malmend-$(date -u +%Y%m%dT%H%M%SZ).db
"$malmend" backup --db "$db" --out "$copy" --json >"$tmp/backup" 2>"$tmp/why" ||
    die "$FAILED" "the copy failed: $(reason)"
set -- --db "$copy" --json
[ -z "$model" ] || set -- "$@" --model "$model"
if ! "$malmend" verify "$@" >"$tmp/verify" 2>"$tmp/why"; then
    rm -f "$copy" "$copy-wal" "$copy-shm" "$copy.editor.safetensors"
    die "$FAILED" "the copy does not hold and was removed: $(reason)"
fi
rm -f "$copy-wal" "$copy-shm"

# The names sort by time.
removed=0
if [ "$keep" -gt 0 ]; then
    for old in $(find "$dir" -maxdepth 1 -name 'malmend-*Z.db' -exec basename {} \; | sort -r |
        tail -n "+$((keep + 1))"); do
        rm -f "$dir/$old" "$dir/$old.editor.safetensors"
        removed=$((removed + 1))
    done
fi
if [ -n "$json" ]; then
    jq -c --slurpfile verify "$tmp/verify" --argjson removed "$removed" \
        '. + {verify: $verify[0], removed: $removed}' "$tmp/backup"
else
    jq -r --slurpfile verify "$tmp/verify" --argjson removed "$removed" '
        "\(.out): \(.bytes) bytes, version \(.live_version), \($verify[0].versions) versions verified"
        + (if $verify[0].replayed then " and replayed" else "" end)
        + (if $removed > 0 then ", \($removed) older ones removed" else "" end)' "$tmp/backup"
fi
