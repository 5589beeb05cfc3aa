#!/bin/bash
# Keeps the server at 70 per cent of what it can do with a mix of right, wrong and abandoned
# requests, and fails when an answer is not the right one for its image, when a connection breaks,
# when memory grows or when something is left over at the end.
#
# The speed of the machine decides nothing. What the server can do is measured again every minute,
# a request has ten minutes, and memory is compared at rest after each minute: what a burst took has
# to be back by then, whatever it was.
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
    "$build/loadgen" --timeout 600000 "$@" "${mix[@]}" "127.0.0.1:$port"
}

# ---------------------------------------------------------------- the load

start_convd --access-log off --request-timeout 10m "$@"
sums() {
    for name in convd_inflight_requests convd_queue_bytes process_open_fds; do metric $name; done |
        tr '\n' ' '
}

declare -A total
add_up() { # REPORT
    local name value
    for name in sent answered ok rejected wrong broken refused aborted timed_out unsent; do
        value=$(field "$1" $name)
        total[$name]=$((${total[$name]:-0} + ${value:--1}))
    done
    for name in $(echo "$1" | sed -n 's/.*"statuses":{\([^}]*\)}.*/\1/p' | tr -d '"' | tr , ' '); do
        total[${name%:*}]=$((${total[${name%:*}]:-0} + ${name#*:}))
    done
}

# A round of the load; sets rate, capacity and most, the highest RSS.
seconds=0 next_reload=${RELOAD_EVERY:-5}
round() { # DURATION_S
    local report generator rss
    report=$(load --seconds 3 --connections 32)
    add_up "$report"
    capacity=$(calc "$(field "$report" sent) / $(field "$report" took_s)")
    rate=$(calc "0.7 * $capacity")
    load --rate "$rate" --seconds $(($1 > 4 ? $1 - 3 : 1)) --connections "$connections" >"$scratch/report" &
    generator=$!
    servers+=("$generator")
    most=0
    while kill -0 "$generator" 2>/dev/null && kill -0 "$convd" 2>/dev/null; do
        sleep 1
        seconds=$((seconds + 1))
        rss=$(rss_kb "$convd")
        if [ "$rss" -gt "$most" ]; then most=$rss; fi
        if [ -n "${RELOAD:-}" ] && [ $seconds -ge "$next_reload" ]; then
            kill -HUP "$convd"
            next_reload=$((seconds + ${RELOAD_EVERY:-5}))
        fi
    done
    wait "$generator" || true
    unset 'servers[-1]'
    add_up "$(cat "$scratch/report")"
}

# What is kept for the next burst is given back after some ten seconds without one. Sets rss.
rest() { # ENOUGH_KB
    local tries
    for ((tries = 0; tries < 20; tries++)); do
        rss=$(rss_kb "$convd")
        if [ "$rss" -le "$1" ]; then break; fi
        sleep 1
    done
}

before=$(sums)
rounds=$((duration < 180 ? 3 : duration / 60))
echo "soak: 70 % of capacity for $duration s in $rounds rounds${RELOAD:+, reloading}; $(machine)"
base=0 worst=0
for ((i = 1; i <= rounds; i++)); do
    round $((duration / rounds))
    rest $((base > 0 ? base + growth_kb / 4 : 0))
    if [ "$base" -eq 0 ]; then base=$rss; fi
    if [ "$rss" -gt "$worst" ]; then worst=$rss; fi
    echo "soak: $((i * duration / rounds)) s, $(calc "$rate")/s of $(calc "$capacity")/s," \
        "RSS at most $most KB, at rest $rss KB"
    kill -0 "$convd" 2>/dev/null || break
done
printf 'soak: answers by status:'
for name in "${!total[@]}"; do
    case $name in [1-5][0-9][0-9]) echo "$name: ${total[$name]}" ;; esac
done | sort | tr '\n' ' ' | sed 's/ $/\n/; s/^/ /'

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
check 'the load was carried out' "${total[sent]} > 0 && $i > $rounds" "${total[sent]} requests"
check 'every answer is the right one' "${total[wrong]} == 0" "${total[wrong]} wrong"
check 'no connection breaks' "${total[broken]} + ${total[refused]} == 0" \
    "${total[broken]} broken, ${total[refused]} refused"
check 'every request is answered' "${total[timed_out]} + ${total[unsent]} == 0" \
    "${total[aborted]} were abandoned, ${total[timed_out]} timed out, ${total[unsent]} not sent"
check 'hardly any is turned away' "${total[rejected]} <= 0.01 * ${total[answered]}" \
    "${total[rejected]} of ${total[answered]}"
check 'memory does not grow' "$base > 0 && $worst - $base <= $growth_kb" \
    "at rest, $base KB after the first round, at most $worst KB after the others"

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
