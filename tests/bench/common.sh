#!/bin/bash
# What the benchmarks of the server share; read with "." from the top of the tree, after `build` is
# set to the folder with the programs.

: "${build:?}"
scratch=$(mktemp -d)
servers=()
cleanup() {
    [ ${#servers[@]} -eq 0 ] || kill -- "${servers[@]}" 2>/dev/null || true
    wait 2>/dev/null || true
    rm -rf "$scratch"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

need() { # TOOL...
    local tool
    for tool in "$@"; do
        command -v "$tool" >/dev/null && continue
        echo "${0##*/}: needs $tool (Debian package $tool)" >&2
        exit 1
    done
}

# Starts convd on a free port; sets convd (its process) and port.
start_convd() { # OPTION...
    "$build/convd" serve --listen 127.0.0.1:0 --drain-delay 0 "$@" 2>"$scratch/log" &
    convd=$!
    servers+=("$convd")
    for _ in $(seq 300); do
        if grep -q '"ready"' "$scratch/log"; then break; fi
        kill -0 "$convd" 2>/dev/null || break
        sleep 0.1
    done
    port=$(sed -n 's/.*"listening".*127\.0\.0\.1:\([0-9]*\).*/\1/p' "$scratch/log")
    if [ -z "$port" ] || ! grep -q '"ready"' "$scratch/log"; then
        cat "$scratch/log" >&2
        exit 1
    fi
}

metric() { # SERIES
    curl -s "http://127.0.0.1:$port/metrics" | awk -v name="$1" '$1 == name { print $2 }'
}

rss_kb() { # PROCESS
    awk '/^VmRSS/ { print $2 }' "/proc/$1/status"
}

# CPU time of a process so far, in clock ticks: fields 14 and 15, counted after the name, which may
# have blanks and brackets in it.
cpu_ticks() { # PROCESS
    sed 's/.*) //' "/proc/$1/stat" | awk '{ print $12 + $13 }'
}

# One number of a report of the load generator: KEY, or OBJECT.KEY.
field() { # REPORT NAME
    case $2 in
    *.*) echo "$1" | sed -n "s/.*\"${2%.*}\":{\\([^}]*\\)}.*/,\\1,/p" |
        sed -n "s/.*[,{]\"${2#*.}\":\\([-0-9.]*\\).*/\\1/p" ;;
    *) echo "$1" | sed -n "s/.*[,{]\"$2\":\\([-0-9.]*\\).*/\\1/p" ;;
    esac
}

calc() { # EXPRESSION of awk
    awk "BEGIN { printf \"%.4f\", $1 }"
}

machine() {
    echo "$(nproc) CPUs, $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)"
}
