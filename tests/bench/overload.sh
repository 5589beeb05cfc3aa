#!/bin/bash
# Drives the server beyond its capacity: measures what it can do at most, then offers 50, 80, 100,
# 150 and twice 1000 per cent of that at fixed moments, then 50 per cent again, and prints a Markdown
# table, then what should be and whether it is. Latencies count from the moment a request was due.
#
# The generator runs on the same machine. Where ten times the capacity is more than it and the
# server's I/O thread can exchange at all, the load is limited to 80 per cent of that, measured with
# requests that cost no work; the table names the share. "begun" is how long after its moment a
# request was begun: a time that the generator, or the number of its connections, took. "served" and
# "turned away" count from there.
#
#   tests/bench/overload.sh BUILD_DIR [SERVE_OPTION...]
#
# Environment: MODEL (an ONNX file; default: the built-in LeNet-5), BODY (an image file for it),
# SECONDS_EACH (5), CONNECTIONS (2000; most of the generator's), DEADLINE_MS (none; sent with each
# request as X-Request-Timeout-Ms).

set -eu
cd "$(dirname "$0")/../.."
build=${1:?usage: tests/bench/overload.sh BUILD_DIR [SERVE_OPTION...]}
shift
seconds=${SECONDS_EACH:-5} connections=${CONNECTIONS:-2000}
body=${BODY:-tests/data/digit-7.raw} path=/classify
# shellcheck source=tests/bench/common.sh
. tests/bench/common.sh
need curl
models=()
if [ -n "${MODEL:-}" ]; then
    mkdir "$scratch/models"
    cp "$MODEL" "$scratch/models/overload.onnx"
    models=(--models "$scratch/models")
    path=/classify/overload
fi
start_convd --access-log off "${models[@]}" "$@"

queue=1024 batch=32 # the server's defaults, unless its options say otherwise
options=("$@")
for i in "${!options[@]}"; do
    case ${options[$i]} in
    --max-queue) queue=${options[$((i + 1))]} ;;
    --max-batch) batch=${options[$((i + 1))]} ;;
    esac
done

# Beside busy workers the generator is late, and its figures with it, unless it goes first: where
# that is allowed (root) it does.
first=()
[ "$(nice -n -10 nice 2>/dev/null)" = "$(nice)" ] || first=(nice -n -10)

# CPU time of the server's threads of this name so far, in seconds.
thread_seconds() { # NAME
    local task sum=0
    for task in /proc/"$convd"/task/*; do
        [ "$(cat "$task/comm")" != "$1" ] || sum=$((sum + $(cpu_ticks "${task#/proc/}")))
    done
    calc "$sum / $(getconf CLK_TCK)"
}

# CPU time that this machine, a virtual one, was refused by its host so far.
stolen_seconds() {
    calc "$(awk '$1 == "cpu" { print $9 }' /proc/stat) / $(getconf CLK_TCK)"
}

load() { # OPTION... -> a report
    local deadline=()
    [ -z "${DEADLINE_MS:-}" ] || deadline=(--header "X-Request-Timeout-Ms: $DEADLINE_MS")
    "${first[@]}" "$build/loadgen" "$@" --path "$path" --body "$body" "${deadline[@]}" \
        --header 'Content-Type: application/octet-stream' --expect 200,503,504 "127.0.0.1:$port"
}

row() { # NAME REPORT RSS_BEFORE RSS_AFTER
    local key values=()
    for key in rate begun_ms.p99 goodput_per_s ok_ms.p50 ok_ms.p99 served_ms.p99 rejected expired \
        rejected_ms.p99 turned_away_ms.p99 unsent; do
        values+=("$(field "$2" $key)")
    done
    echo "${values[*]} $(failures "$2") $3 $4" | awk -v name="$1" '{
        printf "| %s | %.0f | %.2f | %.0f | %.2f | %.2f | %.2f | %d | %d | %.2f | %.2f | %d | %d | " \
            "%.1f | %.1f |\n",
            name, $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13 / 1024, $14 / 1024 }'
}

failures() { # REPORT -> requests that had no answer or a wrong one
    calc "$(field "$1" timed_out) + $(field "$1" refused) + $(field "$1" broken) + $(field "$1" wrong)"
}

# Where the CPUs' time went in a stage, as percentages of all of it; sets workers (the workers' share)
# and yield (answers for each second of theirs). Keeps the row until the first table is complete.
shares=()
share() { # NAME REPORT
    local io worker stolen took
    io=$(calc "$(thread_seconds convd-io) - $io_before")
    worker=$(calc "$(thread_seconds convd-worker) - $worker_before")
    stolen=$(calc "$(stolen_seconds) - $stolen_before")
    took=$(calc "$(nproc) * $(field "$2" took_s) / 100")
    workers=$(calc "$worker / $took")
    yield=$(calc "$(field "$2" ok) / ($worker + 0.0001)")
    shares+=("$(echo "$(field "$2" cpu_s) $io $worker $stolen $took $yield" | awk -v name="$1" '{
        printf "| %s | %.1f | %.1f | %.1f | %.1f | %.1f | %.1f |", name, $1 / $5, $2 / $5, $3 / $5,
            $4 / $5, 100 - ($1 + $2 + $3 + $4) / $5, $6 }')")
}
begin_share() {
    io_before=$(thread_seconds convd-io) worker_before=$(thread_seconds convd-worker)
    stolen_before=$(stolen_seconds)
}

verdict() { # WHAT CONDITION VALUE TARGET
    local met
    met=$(awk "BEGIN { print ($2) ? \"met\" : \"missed\" }")
    printf '| %s | %s | %s | %s |\n' "$1" "$4" "$3" "$met"
}

load --seconds 1 --connections 64 >/dev/null
before=$(rss_kb "$convd")
begin_share
report=$(load --seconds "$seconds" --connections 64)
share 'closed loop' "$report"
peak_workers=$workers peak_yield=$yield
capacity=$(field "$report" goodput_per_s)
if [ "$(calc "$capacity < 1")" = 1.0000 ]; then
    echo "overload.sh: no request succeeds: $report" >&2
    exit 1
fi
ceiling=$(field "$("$build/loadgen" --seconds 2 --connections 64 --path /livez "127.0.0.1:$port")" \
    goodput_per_s)
most=$(calc "(10 * $capacity < 0.8 * $ceiling) ? 10 : 0.8 * $ceiling / $capacity")
overloaded=$(awk "BEGIN { printf \"%.0f %%\", 100 * $most }")
echo "${MODEL:-LeNet-5}, $body; closed loop of 64 connections, then open loop of up to" \
    "$connections, $seconds s each; $(machine)"
echo
echo '| load | offered/s | begun p99 ms | goodput/s | accepted p50 ms | p99 ms | served p99 ms | rejected | expired | rejected p99 ms | turned away p99 ms | unsent | failed | RSS before MB | after MB |'
echo '|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|'
row 'closed loop' "$report" "$before" "$(rss_kb "$convd")"

stage() { # NAME SHARE SECONDS: sets report, before and after
    before=$(rss_kb "$convd")
    begin_share
    report=$(load --rate "$(calc "$capacity * $2")" --seconds "$3" --connections "$connections")
    share "$1" "$report"
    after=$(rss_kb "$convd")
    row "$1" "$report" "$before" "$after"
    late=$(calc "($late > $(field "$report" late_ms)) ? $late : $(field "$report" late_ms)")
}
late=0
stage '50 %' 0.5 "$seconds"
calm_p99=$(field "$report" ok_ms.p99) calm_after=$after
stage '80 %' 0.8 "$seconds"
stage '100 %' 1 "$seconds"
peak=$(calc "($(field "$report" goodput_per_s) > $capacity) ? $(field "$report" goodput_per_s) : $capacity")
stage '150 %' 1.5 "$seconds"
stage "$overloaded" "$most" "$seconds"
stage "$overloaded, again" "$most" "$seconds"
overload=$report overload_workers=$workers overload_yield=$yield
stage '50 %, first 2 s after' 0.5 2
stage '50 %, then' 0.5 2
again_p99=$(field "$report" ok_ms.p99) grown=$(calc "($after - $calm_after) / 1024")

goodput=$(field "$overload" goodput_per_s)
rejected=$(field "$overload" rejected_ms.p99)
accepted=$(field "$overload" ok_ms.p99)
bound=$(calc "($queue + $batch * $(nproc)) / $peak * 1000")
[ -z "${DEADLINE_MS:-}" ] || bound=$(calc "($bound < $DEADLINE_MS) ? $bound : $DEADLINE_MS")
echo
echo "| at $overloaded | should be | is | |"
echo '|---|--:|--:|---|'
verdict 'goodput, share of the peak' "$goodput >= 0.95 * $peak" \
    "$(calc "$goodput / $peak")" '>= 0.95'
verdict 'rejected p99' "$rejected <= 5" "$rejected ms" '<= 5 ms'
turned_away=$(field "$overload" turned_away_ms.p99)
verdict 'rejected p99, from its beginning' "$turned_away <= 5" "$turned_away ms" '<= 5 ms'
verdict 'accepted p99' "$accepted <= 1.2 * $bound" "$accepted ms" \
    "$bound ms (a full queue) + 20 %"
# What a burst took is given back a few seconds after it, in one run before the next stage's reading.
verdict 'growth of memory, 50 % afterwards beside before' "$grown <= 4" "$grown MB" '<= 4 MB'
verdict 'p99 at 50 %, 2 s later' "$again_p99 <= 2 * $calm_p99 + 1" "$again_p99 ms" \
    "2 * $calm_p99 + 1 ms"
echo
echo '| % of the CPUs | generator | I/O threads | workers | stolen by the host | others and idle | answers/worker CPU s |'
echo '|---|--:|--:|--:|--:|--:|--:|'
printf '%s\n' "${shares[@]}"
echo
echo "At $overloaded the workers had $(calc "100 * $overload_workers / $peak_workers") % of the CPU" \
    "time that they had in the closed loop, and made $(calc "100 * $overload_yield / $peak_yield") %" \
    "of the answers with each second of it."
echo
echo "The generator itself was kept from running for $late ms at most; where that is much, so is the" \
    "noise in these figures. Its priority: ${first[*]:-none}. It and the I/O thread exchange $(calc "$ceiling / 1000") thousand" \
    "requests a second that cost no work."
