#!/bin/bash
# Keeps the server at 70 per cent of what it can do with a mix of right, wrong and abandoned
# requests, and fails when an answer is not the right one for its image, when a connection breaks,
# when memory grows or when something is left over at the end.
#
#   tests/bench/soak.sh BUILD_DIR [DURATION_S [SERVE_OPTION...]]      (900 s)
#
# Environment: CONNECTIONS (256, the most), GROWTH_KB (8192, allowed after the first minute), RELOAD
# (1: a SIGHUP every RELOAD_EVERY seconds, 5).

set -eu
cd "$(dirname "$0")/../.."
usage='usage: tests/bench/soak.sh BUILD_DIR [DURATION_S [SERVE_OPTION...]]'
build=${1:?$usage}
duration=${2:-900}
shift $(($# < 2 ? 1 : 2))
connections=${CONNECTIONS:-256} growth_kb=${GROWTH_KB:-8192}
# shellcheck source=tests/bench/common.sh
. tests/bench/common.sh
need curl

# ---------------------------------------------------------------- the mix

mix=()
kind() { # SHARE OPTION...
    [ ${#mix[@]} -eq 0 ] || mix+=(--next)
    mix+=(--share "$@")
}
octets='Content-Type: application/octet-stream'
# One class only in the answer: then its label cannot be taken for the image's.
valid() { # LABEL FILE
    kind 20 --path '/classify?top_k=1' --header "$octets" --body "$2" --expect 200,503 \
        --text "\"label\":\"$1\""
}
for digit in 0 1 2 3 4 5 6 7 8 9; do
    valid $digit tests/data/digit-$digit.raw
    valid $digit tests/data/digit-$digit.png
done
valid 4 tests/data/digit-4.bmp
valid 8 tests/data/paper-8.jpg
{
    printf '{"pixels":['
    od -An -v -tu1 tests/data/digit-5.raw | tr -s ' \n' ',' | sed 's/^,//; s/,$//'
    printf ']}'
} >"$scratch/5.json"
valid 5 "$scratch/5.json"
printf '{"image":"%s"}' "$(base64 -w 0 tests/data/digit-3.png)" >"$scratch/3.json"
valid 3 "$scratch/3.json"

wrong() { # STATUS FILE OPTION...
    local status=$1 file=$2
    shift 2
    kind 2 --path /classify --body "$file" --expect "$status,503" "$@"
}
head -c 150 tests/data/digit-2.png >"$scratch/cut.png"
head -c 700 tests/data/digit-2.raw >"$scratch/short.raw"
head -c 1000 "$scratch/5.json" >"$scratch/cut.json"
wrong 415 tests/bench/soak.sh
wrong 422 "$scratch/cut.png"
wrong 422 "$scratch/short.raw" --header "$octets"
wrong 400 "$scratch/cut.json"
wrong 404 tests/data/digit-2.raw --path /nowhere
wrong 405 tests/data/digit-2.raw --method DELETE
wrong 400 tests/data/digit-2.raw --header "$octets" --header 'X-Request-Timeout-Ms: soon'
kind 2 --path /livez --expect 200

abandoned() { # FILE BYTES
    kind 2 --path /classify --body "$1" --abort "$2"
}
head -c 3000000 /dev/zero >"$scratch/large"
abandoned tests/data/digit-1.raw 400
abandoned tests/data/paper-9.jpg 1
abandoned "$scratch/large" 2000000

load() { # OPTION... -> a report
    "$build/loadgen" "$@" "${mix[@]}" "127.0.0.1:$port"
}

# ---------------------------------------------------------------- the load

start_convd --access-log off "$@"
sums() {
    for name in convd_inflight_requests convd_queue_bytes process_open_fds; do metric $name; done |
        tr '\n' ' '
}
before=$(sums)
report=$(load --seconds 3 --connections 32)
capacity=$(calc "$(field "$report" sent) / $(field "$report" took_s)")
rate=$(calc "0.7 * $capacity")
echo "soak: $(calc "$rate")/s, 70 % of $capacity/s, for $duration s${RELOAD:+, reloading}; $(machine)"

load --rate "$rate" --seconds "$duration" --connections "$connections" >"$scratch/report" &
generator=$!
servers+=("$generator")
settled=$((duration < 180 ? duration / 3 : 60))
base=0 most=0 next_reload=${RELOAD_EVERY:-5} next_line=60
for ((second = 1; second <= duration; second++)); do
    sleep 1
    kill -0 "$convd" 2>/dev/null || break
    rss=$(rss_kb "$convd")
    if [ "$second" -eq "$settled" ]; then base=$rss; fi
    if [ "$rss" -gt "$most" ] && [ "$second" -ge "$settled" ]; then most=$rss; fi
    if [ -n "${RELOAD:-}" ] && [ "$second" -ge "$next_reload" ]; then
        kill -HUP "$convd"
        next_reload=$((second + ${RELOAD_EVERY:-5}))
    fi
    if [ "$second" -ge $next_line ]; then
        echo "soak: $second s, RSS $rss KB"
        next_line=$((second + 60))
    fi
done
wait "$generator" || true
report=$(cat "$scratch/report")
echo "$report"

# ---------------------------------------------------------------- what has to hold

failures=0
check() { # WHAT CONDITION VALUE
    if awk "BEGIN { exit !($2) }"; then
        echo "soak: ok     $1 ($3)"
    else
        echo "soak: FAILED $1 ($3)"
        failures=$((failures + 1))
    fi
}
count() { # FIELD
    local value
    value=$(field "$report" "$1")
    echo "${value:--1}"
}
check 'the load was carried out' "$(count sent) > 0" "$(count sent) requests"
check 'every answer is the right one' "$(count wrong) == 0" "$(count wrong) wrong"
check 'no connection breaks' "$(count broken) + $(count refused) == 0" \
    "$(count broken) broken, $(count refused) refused"
check 'every request is answered' "$(count timed_out) + $(count unsent) == 0" \
    "$(count timed_out) timed out, $(count unsent) not sent; the generator was held up for $(count late_ms) ms at most"
check 'hardly any is turned away' "$(count rejected) <= 0.01 * $(count answered)" \
    "$(count rejected) of $(count answered)"
check 'memory does not grow' "$base > 0 && $most - $base <= $growth_kb" \
    "$base KB after $settled s, at most $most KB after that"

# Connections that the generator has just closed may take a moment.
for _ in $(seq 50); do
    after=$(sums)
    [ "$after" != "$before" ] || break
    sleep 0.1
done
check 'nothing is left over' "\"$after\" == \"$before\"" \
    "requests, bytes waiting, descriptors: $before before, $after after"
kill -TERM "$convd" 2>/dev/null || true
status=0
wait "$convd" || status=$?
check 'the server ends in order' "$status == 0" "exit status $status"
if grep -E 'level=(warn|error)|Sanitizer' "$scratch/log" | tail -n 20 >"$scratch/trouble" &&
    [ -s "$scratch/trouble" ]; then
    echo 'soak: the log has:'
    cat "$scratch/trouble"
fi
[ "$failures" -eq 0 ]
