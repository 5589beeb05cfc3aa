#!/bin/bash
# Times the server beside a bare libmicrohttpd handler (yardstick.c) that reads 784 bytes, in
# interleaved rounds, and prints a Markdown table. A row's figures are those of its median round.
#
#   tests/bench/serve.sh BUILD_DIR [SERVE_OPTION...]
#
# Environment:
#   ROUNDS (3), SECONDS_EACH (2), CONCURRENCY ("1 32 256"), IO_THREADS (1)
#   MODELS       a folder with ONNX files: adds a JPEG photo and JSON of 224x224x3 numbers into
#   PHOTO_MODEL  the one of this name (default: the last squeezenet*, else the last)
#   PHOTO        the JPEG file (tests/data/paper-8.jpg)
#   PEER_URL     another server, measured beside: where to post
#   PEER_COMMAND what starts it (default: it runs already; then its CPU time is not known)
#   PEER_BODY, PEER_TYPE   what to post (784 octets, application/octet-stream)

set -eu
cd "$(dirname "$0")/../.."
build=${1:?usage: tests/bench/serve.sh BUILD_DIR [SERVE_OPTION...]}
shift
rounds=${ROUNDS:-3} seconds=${SECONDS_EACH:-2} io=${IO_THREADS:-1}
concurrency=${CONCURRENCY:-1 32 256}
case $seconds in
'' | *[!0-9]*)
    echo "serve.sh: SECONDS_EACH is '$seconds'; wrk takes whole seconds" >&2
    exit 2
    ;;
esac
# shellcheck source=tests/bench/common.sh
. tests/bench/common.sh
need wrk curl

# ---------------------------------------------------------------- what is sent

raw=tests/data/digit-7.raw png=tests/data/digit-7.png
{
    printf '{"pixels":['
    od -An -v -tu1 "$raw" | tr -s ' \n' ',' | sed 's/^,//; s/,$//'
    printf ']}'
} >"$scratch/digit.json"
printf '{"image":"%s"}' "$(base64 -w 0 "$png")" >"$scratch/base64.json"
awk 'BEGIN {
    printf "{\"pixels\":["
    for (y = 0; y < 224; y++) {
        printf y ? ",[" : "["
        for (x = 0; x < 224; x++)
            printf "%s[%d,%d,%d]", x ? "," : "", (x * 3 + y) % 256, (x + y * 5) % 256, (x * y) % 256
        printf "]"
    }
    printf "]}"
}' >"$scratch/photo.json"

# ---------------------------------------------------------------- who is measured

# A row: names[i], urls[i], files[i], types[i], processes[i] (of whose group the CPU time and RSS
# are taken; "-": not known) and pages[i] (its metrics; "-": has none).
names=() urls=() files=() types=() processes=() pages=()
add_row() { # NAME URL FILE TYPE PROCESS METRICS_URL
    names+=("$1") urls+=("$2") files+=("$3") types+=("$4") processes+=("$5") pages+=("$6")
}

"$build/tests/bench/yardstick" "$io" >"$scratch/port" &
yardstick=$!
servers+=("$yardstick")
start_convd --io-threads "$io" "$@"
while [ ! -s "$scratch/port" ]; do sleep 0.05; done
octets=application/octet-stream
add_row 'bare handler, 784 bytes' "http://127.0.0.1:$(cat "$scratch/port")/" "$raw" $octets \
    "$yardstick" -
url=http://127.0.0.1:$port/classify page=http://127.0.0.1:$port/metrics
add_row 'LeNet-5, 784 raw octets' "$url" "$raw" $octets "$convd" "$page"
add_row 'LeNet-5, 28x28 PNG' "$url" "$png" image/png "$convd" "$page"
add_row 'LeNet-5, 784 integers of JSON' "$url" "$scratch/digit.json" application/json "$convd" "$page"
add_row 'LeNet-5, PNG in base64' "$url" "$scratch/base64.json" application/json "$convd" "$page"

if [ -n "${MODELS:-}" ]; then
    model=$(find "$MODELS" -maxdepth 1 -name "${PHOTO_MODEL:-squeezenet*}.onnx" | sort | tail -n 1)
    [ -n "$model" ] || model=$(find "$MODELS" -maxdepth 1 -name '*.onnx' | sort | tail -n 1)
    model=$(basename "$model" .onnx)
    mkdir "$scratch/models"
    cp "$MODELS/$model.onnx" "$scratch/models/"
    start_convd --io-threads "$io" --models "$scratch/models" "$@"
    url=http://127.0.0.1:$port/classify/$model page=http://127.0.0.1:$port/metrics
    photo_row=${#names[@]}
    add_row "$model, JPEG" "$url" "${PHOTO:-tests/data/paper-8.jpg}" image/jpeg "$convd" "$page"
    add_row "$model, JSON of 224x224x3" "$url" "$scratch/photo.json" application/json "$convd" "$page"
fi

if [ -n "${PEER_URL:-}" ]; then
    peer=-
    if [ -n "${PEER_COMMAND:-}" ]; then
        setsid bash -c "$PEER_COMMAND" >"$scratch/peer" 2>&1 &
        peer=$!
        servers+=("-$peer")
    fi
    curl -s -o /dev/null --retry 60 --retry-delay 1 --retry-connrefused "$PEER_URL"
    add_row "${PEER_NAME:-peer}" "$PEER_URL" "${PEER_BODY:-$raw}" "${PEER_TYPE:-$octets}" "$peer" -
fi

# ---------------------------------------------------------------- measuring

# CPU ticks and RSS in KB of a process, and of all in its group when it leads one.
usage() { # PROCESS
    if [ "$1" = - ]; then
        echo 0 0
        return
    fi
    cat /proc/[0-9]*/stat 2>/dev/null | sed 's/^\([0-9]*\) .*) /\1 /' |
        awk -v pid="$1" -v page="$(getconf PAGESIZE)" '$1 == pid || $4 == pid {
            ticks += $13 + $14; rss += $23 * page / 1024 } END { print ticks + 0, rss + 0 }'
}

# Sums so far: images and count of batches, seconds of decoding, seconds of computing.
sums() { # METRICS_URL
    if [ "$1" = - ]; then
        echo 0 0 0 0
        return
    fi
    curl -s "$1" | awk '
        /^convd_batch_size_sum/ { images += $2 } /^convd_batch_size_count/ { batches += $2 }
        /^convd_decode_seconds_sum/ { decode += $2 } /^convd_compute_seconds_sum/ { compute += $2 }
        END { printf "%.0f %.0f %.9f %.9f\n", images, batches, decode, compute }'
}

ticks_per_second=$(getconf CLK_TCK)

# One line: requests/s, p50, p99, errors, CPU s per 1,000 requests, RSS MB, images in a batch, and
# decoding and computing of one request in ms.
measure() { # ROW CONNECTIONS
    local before after
    before="$(usage "${processes[$1]}") $(sums "${pages[$1]}")"
    wrk -t1 -c"$2" -d"${seconds}s" --latency -s tests/bench/load.lua "${urls[$1]}" -- \
        "${files[$1]}" "${types[$1]}" | sed -n 's/^RESULT //p' >"$scratch/result"
    after="$(usage "${processes[$1]}") $(sums "${pages[$1]}")"
    echo "$(cat "$scratch/result") $before $after" | awk -v hz="$ticks_per_second" '{
        batches = $15 - $9
        images = $14 - $8
        printf "%.1f %.3f %.3f %d %.4f %.1f %.2f %.4f %.4f\n", $1, $2, $3, $4,
            $5 ? ($12 - $6) / hz / $5 * 1000 : 0, $13 / 1024, batches ? images / batches : 0,
            images ? ($16 - $10) / images * 1000 : 0, batches ? ($17 - $11) / batches * 1000 : 0 }'
}

median() { # lines on standard input, by their first column
    sort -n | sed -n "$(((rounds + 1) / 2))p"
}

echo "$io I/O thread(s), $rounds rounds of $seconds s each; $(machine)"
echo
echo '| connections | request | requests/s | of bare | p50 ms | p99 ms | CPU s per 1,000 | RSS MB | mean batch | errors |'
echo '|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|'
for connections in $concurrency; do
    for ((round = 0; round < rounds; round++)); do
        for row in "${!names[@]}"; do
            measure "$row" "$connections" >>"$scratch/$connections.$row"
        done
    done
    bare=$(median <"$scratch/$connections.0" | cut -d ' ' -f 1)
    for row in "${!names[@]}"; do
        median <"$scratch/$connections.$row" | awk -v name="${names[$row]}" -v bare="$bare" \
            -v connections="$connections" -v process="${processes[$row]}" '{
            cpu = process == "-" ? "" : sprintf("%.3f", $5)
            rss = process == "-" ? "" : sprintf("%.1f", $6)
            batch = $7 ? sprintf("%.2f", $7) : ""
            printf "| %s | %s | %.0f | %.3f | %.3f | %.3f | %s | %s | %s | %d |\n",
                connections, name, $1, bare ? $1 / bare : 0, $2, $3, cpu, rss, batch, $4 }'
    done
done

# ---------------------------------------------------------------- what it adds

if [ -e "$scratch/1.0" ]; then
    echo
    echo '| at 1 connection | p50 ms | decode ms | compute ms | the rest ms |'
    echo '|---|--:|--:|--:|--:|'
    for row in "${!names[@]}"; do
        [ "${pages[$row]}" != - ] || continue
        median <"$scratch/1.$row" | awk -v name="${names[$row]}" '{
            printf "| %s | %.3f | %.3f | %.3f | %.3f |\n", name, $2, $8, $9, $2 - $8 - $9 }'
    done
fi
if [ -n "${MODELS:-}" ]; then
    engine=$("$build/convd" bench "$scratch/models/$model.onnx" --batch 8 --seconds "$seconds" --json |
        sed -n 's/.*"images_per_s": *\([0-9.]*\).*/\1/p')
    most=0 decode=0
    for connections in $concurrency; do
        line=$(median <"$scratch/$connections.$photo_row")
        most=$(echo "$line $most" | awk '{ print ($1 > $10) ? $1 : $10 }')
        decode=$(echo "$line" | cut -d ' ' -f 8)
    done
    echo
    echo "$most $decode $engine $(nproc)" | awk -v model="$model" '{
        allowed = 1 / (1 / $3 + $2 / 1000 / $4)
        printf "%s, JPEG: %.1f requests/s; the engine alone computes %.1f images/s, and %.2f ms of decoding each leave %.1f: %.2f of that.\n",
            model, $1, $3, $2, allowed, $1 / allowed }'
fi
