#!/bin/bash
# Times the server beside a bare libmicrohttpd handler (yardstick.c) that reads the same bodies, in
# interleaved rounds, and prints a Markdown table. The figures are those of the median round.
#
#   tests/bench/serve.sh BUILD_DIR [SERVE_OPTION...]
#
# Environment: ROUNDS (3), SECONDS_EACH (5), CONNECTIONS (32), IO_THREADS (1).

set -eu
cd "$(dirname "$0")/../.."
build=${1:?usage: tests/bench/serve.sh BUILD_DIR [SERVE_OPTION...]}
shift
rounds=${ROUNDS:-3} seconds=${SECONDS_EACH:-5} connections=${CONNECTIONS:-32} io=${IO_THREADS:-1}
for tool in wrk curl; do
    if ! command -v $tool >/dev/null; then
        echo "serve.sh: needs $tool (Debian package $tool)" >&2
        exit 1
    fi
done

scratch=$(mktemp -d)
servers=()
cleanup() {
    [ ${#servers[@]} -eq 0 ] || kill "${servers[@]}" 2>/dev/null || true
    rm -rf "$scratch"
}
trap cleanup EXIT

"$build/tests/bench/yardstick" "$io" >"$scratch/port" &
servers+=($!)
"$build/convd" serve --listen 127.0.0.1:0 --drain-delay 0 --io-threads "$io" "$@" 2>"$scratch/log" &
convd=$!
servers+=("$convd")
for _ in $(seq 100); do
    if grep -q '"ready"' "$scratch/log" && [ -s "$scratch/port" ]; then break; fi
    sleep 0.1
done
port=$(sed -n 's/.*"listening".*127\.0\.0\.1:\([0-9]*\).*/\1/p' "$scratch/log")
if [ -z "$port" ]; then
    cat "$scratch/log" >&2
    exit 1
fi
url=http://127.0.0.1:$port/classify
yardstick=http://127.0.0.1:$(cat "$scratch/port")/

cp tests/data/digit-7.raw tests/data/digit-7.png "$scratch/"
{
    printf '{"pixels":['
    od -An -v -tu1 tests/data/digit-7.raw | tr -s ' \n' ',' | sed 's/^,//; s/,$//'
    printf ']}'
} >"$scratch/digit-7.json"

metric() { # SERIES
    curl -s "http://127.0.0.1:$port/metrics" | awk -v name="$1" '$1 == name { print $2 }'
}

batches() {
    metric 'convd_batch_size_sum{model="lenet5"}'
    metric 'convd_batch_size_count{model="lenet5"}'
}

run() { # URL FILE TYPE -> "requests/s p50 p99 errors"
    wrk -t1 -c"$connections" -d"${seconds}s" --latency -s tests/bench/load.lua "$1" -- "$2" "$3" |
        sed -n 's/^RESULT //p'
}

median() { # lines on standard input, by their first column
    sort -n | sed -n "$(((rounds + 1) / 2))p"
}

echo "$connections connections, $io I/O thread(s), $rounds rounds of $seconds s; $(nproc) CPUs," \
    "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)"
echo
echo '| body | server | requests/s | p50 ms | p99 ms | of yardstick | mean batch | errors |'
echo '|---|---|--:|--:|--:|--:|--:|--:|'
row() { # BODY FILE TYPE
    local before after bare own
    : >"$scratch/bare"
    : >"$scratch/own"
    before=$(batches | tr '\n' ' ')
    for _ in $(seq "$rounds"); do
        run "$yardstick" "$2" "$3" >>"$scratch/bare"
        run "$url" "$2" "$3" >>"$scratch/own"
    done
    after=$(batches | tr '\n' ' ')
    bare=$(median <"$scratch/bare")
    own=$(median <"$scratch/own")
    echo "$bare" | awk -v body="$1" '{
        printf "| %s | bare libmicrohttpd | %.0f | %.2f | %.2f | 1 | | %d |\n", body, $1, $2, $3, $4 }'
    echo "$own $bare $before $after" | awk '{
        printf "| | convd | %.0f | %.2f | %.2f | %.2f | %.2f | %d |\n",
            $1, $2, $3, $1 / $5, ($12 > $10) ? ($11 - $9) / ($12 - $10) : 0, $4 }'
}
row '784 raw octets' "$scratch/digit-7.raw" application/octet-stream
row '28x28 PNG' "$scratch/digit-7.png" image/png
row '784 integers of JSON' "$scratch/digit-7.json" application/json
echo
awk '/^VmRSS/ { printf "convd after the load: RSS %.1f MB\n", $2 / 1024 }' "/proc/$convd/status"
