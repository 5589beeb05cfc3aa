#!/bin/sh
# Checks what the compiler does not: the direction of includes, header guards, headers that compile
# alone, sizes of files and functions, white space, formatting, shell scripts, in the built
# objects instruction sets, hot loops and mutable data, commit messages. One line for each finding;
# exits with 1 when there is any. What cannot be checked here is said ("skipped: …").

set -u
cd "$(dirname "$0")/.." || exit 1
findings=$(mktemp) || exit 1
trap 'rm -f "$findings"' EXIT

# Reads lines "file:line: text" or "file: text" and reports each with a reason.
report() {
    sed "s|\$|  [$1]|" >>"$findings"
}

skipped() {
    echo "skipped: $1"
}

# forbid REASON PATTERN FILE...: lines of the files that match the extended pattern.
forbid() {
    reason=$1 pattern=$2
    shift 2
    [ $# -eq 0 ] || grep -nEH -- "$pattern" "$@" | report "$reason"
}

sources() {
    find include engine server tests -type f \( -name '*.c' -o -name '*.h' -o -name '*.inc' \) | sort
}

# ---------------------------------------------------------------- who may include what
# Paths have no white space: the lists below are split on purpose.
# shellcheck disable=SC2046
check_includes() {
    other='#include "(server|tests)/|#include <(microhttpd|jansson|zlib|stb_)'
    forbid "the engine knows only itself and the C library" "$other" $(find engine include -name '*.[ch]')
    forbid "public headers include only public headers" '#include "' $(find include -name '*.h')
    forbid "the server uses the engine through include/convd" '#include "(engine|tests)/' \
        $(find server -name '*.[ch]')
    forbid "kernels depend on nothing" '#include "engine/(ops|graph|onnx|runtime|train)/' \
        $(find engine/kernels -name '*.[ch]' -o -name '*.inc')
    forbid "operators depend on kernels only" '#include "engine/(graph|onnx|train)/' \
        $(find engine/ops -name '*.[ch]')
    forbid "the graph does not know its file format" '#include "engine/(onnx|train)/' \
        $(find engine/graph -name '*.[ch]')
    forbid "only what is above may use it" '#include "engine/train/' \
        $(find engine -name '*.[ch]' -not -path '*/train/*')
    forbid "intrinsics stay in engine/kernels" '#include <(immintrin|x86intrin|arm_neon)' \
        $(sources | grep -v '^engine/kernels/')
    forbid "microhttpd.h stays in http*.c, reply.c and their headers" '#include <microhttpd' \
        $(find server -name '*.[ch]' -not -name 'http*' -not -name 'reply.*')
    forbid "stb_image.h stays in stb.c and image*.c" '#include <stb_image' \
        $(find server -name '*.[ch]' -not -name 'stb.c' -not -name 'image*.c')
    forbid "jansson.h stays in the JSON-speaking files" '#include <jansson' \
        $(find server -name 'http*' -o -name 'gate*.[ch]' -o -name 'batch*' -o -name 'routes*' \
            -o -name 'metrics*' -o -name 'log*' -o -name 'stb.c' -o -name 'reply.*')
}

# ---------------------------------------------------------------- habits of the house
# shellcheck disable=SC2046
check_habits() {
    forbid "unfinished" '(^|[^A-Za-z])(TODO|FIXME)([^A-Za-z]|$)' $(sources) Makefile $(find README.md deploy -type f 2>/dev/null)
    forbid "structs, unions and enums have no typedef" '^ *typedef +(struct|union|enum)[^(]*$' $(sources)
    forbid "writes without a bound" '[^a-z_](alloca|gets|sprintf|strcat) *\(' \
        $(sources | grep -v '^tests/')
    forbid "the engine never prints, exits or reads the environment" \
        '(^|[^a-z_>.])(getenv|secure_getenv|exit|_exit|abort|perror|printf|puts|system) *\(|[^a-z_](stderr|stdout)[^a-z_]' \
        $(find engine -name '*.[ch]' -o -name '*.inc')
    forbid "a path of one machine" '/(work|root|home|Users)/[a-z]' $(sources) Makefile \
        $(find README.md deploy server/web tests/*.sh -type f 2>/dev/null)
}

# ---------------------------------------------------------------- sizes
check_sizes() {
    sources | while read -r file; do
        case $file in *.h) limit=300 ;; *) limit=800 ;; esac
        lines=$(wc -l <"$file")
        [ "$lines" -le "$limit" ] || echo "$file: $lines lines, at most $limit"
        # In formatted code a function's braces stand in the first column.
        awk -v file="$file" '
            /^[A-Za-z_]/ { name = $0 }
            /^\{$/ { start = NR }
            /^\}$/ && start { if (NR - start - 1 > 100)
                printf "%s:%d: function of %d lines, at most 100: %s\n", file, start, NR - start - 1, name
                start = 0 }' "$file"
    done | report "too large"
}

# ---------------------------------------------------------------- headers
check_headers() {
    find include engine server tests -name '*.h' | sort | while read -r file; do
        guard=$(echo "$file" | sed 's|^include/convd/||; s|^engine/||; s|[/.]|_|g' |
            tr '[:lower:]' '[:upper:]')
        grep -q "^#ifndef CONVD_$guard\$" "$file" && grep -q "^#define CONVD_$guard\$" "$file" ||
            echo "$file: include guard is not CONVD_$guard"
    done | report "header guard"

    compiler=${CC:-gcc}
    if ! command -v "$compiler" >/dev/null; then
        skipped "headers alone ($compiler is not here)"
        return
    fi
    find include engine server tests -name '*.h' | sort | while read -r file; do
        isa=
        case $file-$(uname -m) in
        *_avx2.h-x86_64) isa="-mavx2 -mfma" ;;
        *_avx512.h-x86_64) isa="-mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma" ;;
        *_avx*.h-* | *_neon.h-x86_64) continue ;;
        esac
        # shellcheck disable=SC2086
        "$compiler" -std=gnu11 -D_GNU_SOURCE -Iinclude -I. $isa -fsyntax-only -x c "$file" 2>&1 |
            grep -m 1 'error:' || true
    done | report "does not compile alone"
    if command -v g++ >/dev/null; then
        find include -name '*.h' | sort | while read -r file; do
            g++ -Iinclude -fsyntax-only -x c++ "$file" 2>&1 | grep -m 1 'error:' || true
        done | report "is not C++"
    fi
}

# ---------------------------------------------------------------- text
# shellcheck disable=SC2046
check_text() {
    texts="$(sources) $(find tests deploy server/web .ci -type f \( -name '*.sh' -o -name '*.py' \
        -o -name '*.html' -o -name '*.yml' -o -name '*.yaml' -o -name '*.md' -o -name '*.service' \))"
    texts="$texts Makefile README.md Dockerfile .ci/run"
    tab=$(printf '\t')
    for file in $texts; do
        [ -s "$file" ] || continue
        [ -z "$(tail -c 1 "$file")" ] || echo "$file: no newline at the end of the file"
    done | report "white space"
    # shellcheck disable=SC2086
    grep -nH ' $' $texts 2>/dev/null | report "trailing white space"
    # shellcheck disable=SC2086
    grep -nH "$tab" $(echo $texts | tr ' ' '\n' | grep -v '^Makefile$') 2>/dev/null | report "tab"

    if ! command -v clang-format >/dev/null; then
        skipped "formatting (clang-format is not here)"
    elif ! clang-format --version | grep -q 'version 14\.'; then
        skipped "formatting ($(clang-format --version | grep -o 'version [0-9.]*'), the tree is formatted with 14)"
    else
        clang-format --dry-run $(sources) 2>&1 |
            sed -n 's/^\([^ :]*\):.*clang-format-violations.*/\1: run make format/p' |
            sort -u | report "formatting"
    fi
}

# shellcheck disable=SC2046
check_scripts() {
    scripts="$(find tests deploy -name '*.sh') .ci/run"
    for script in $scripts; do
        shell=$(sed -n '1s/.*[/ ]\([a-z]*sh\)$/\1/p' "$script")
        if command -v "$shell" >/dev/null; then
            "$shell" -n "$script" 2>&1 | report "syntax"
        fi
        [ -x "$script" ] || echo "$script: not executable" | report "mode"
    done
    if command -v shellcheck >/dev/null; then
        # shellcheck disable=SC2086
        shellcheck -f gcc $scripts | report "shellcheck"
    else
        skipped "shellcheck (not here)"
    fi
}

# ---------------------------------------------------------------- built objects
# One exception to "no mutable data": the hook with which tests make allocations fail.
mutable_data() { # OBJECT SOURCE
    objdump -t "$1" | awk -v file="$2" 'NF >= 5 && / O \.(data|bss|tdata|tbss)/ &&
        !/\.data\.rel\.ro/ && !/ fail_(countdown|forever)$/ { print file ": mutable data: " $NF }'
}

check_objects() {
    objects=$(find build/gcc/engine build/gcc/server -name '*.o' 2>/dev/null | sort)
    if [ -z "$objects" ]; then
        skipped "objects (nothing in build/gcc: run make first)"
        return
    elif ! command -v objdump >/dev/null; then
        skipped "objects (objdump is not here)"
        return
    fi
    machine=$(uname -m)
    for object in $objects; do
        source=${object#build/gcc/}
        source=${source%.o}.c
        [ -e "$source" ] || continue
        case $source in
        engine/*) mutable_data "$object" "$source" ;;
        esac
        case $source-$machine in
        engine/kernels/*_avx2.c-* | engine/kernels/*_avx512.c-*) ;;
        *-x86_64)
            # All of AVX begins with a v, and nothing else that a compiler makes does.
            objdump -d --no-show-raw-insn "$object" | awk -v file="$source" -F '\t' '
                $2 ~ /^(\{[a-z]+\} )?v/ { print file ": AVX outside the files of a level: " $2
                                          exit }' ;;
        esac
    done | report "built object"
    if [ "$machine" = x86_64 ]; then
        objdump -d --no-show-raw-insn build/gcc/engine/kernels/*_avx*.o |
            awk -f tests/spills.awk | report "sums in memory"
    else
        skipped "instructions (this is no x86-64)"
    fi
}

# ---------------------------------------------------------------- commits
check_commits() {
    if ! git rev-parse -q --verify HEAD >/dev/null 2>&1; then
        skipped "commit messages (no commits)"
        return
    fi
    git log --no-merges -n 30 --format='%h' | while read -r commit; do
        git log -n 1 --format='%B' "$commit" | awk -v id="$commit" '
            NR == 1 && length($0) > 72 { print id ": summary of " length($0) " characters, at most 72" }
            NR == 1 && $0 !~ /^[a-z0-9\/_.,-]+( and [a-z0-9\/_.-]+)?: [^ ].*[^.]$/ {
                print id ": summary is not \"area: what it does\": " $0 }
            NR == 2 && $0 != "" { print id ": the second line is not blank" }'
    done | report "commit message"
}

check_includes
check_habits
check_sizes
check_headers
check_text
check_scripts
check_objects
check_commits

if [ -s "$findings" ]; then
    cat "$findings"
    echo "$(wc -l <"$findings") findings"
    exit 1
fi
echo "lint: nothing found"
