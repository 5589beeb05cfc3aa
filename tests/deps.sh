#!/bin/sh
# Installs the Debian packages named as arguments that are not there yet; prints nothing when all
# are. Elsewhere it says what convd needs, and fails only when something is really missing.

set -u

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
    cat <<'END'
This is not a Debian system. convd needs:
  a C11 compiler (gcc or clang) and GNU make
  libmicrohttpd 0.9.71 or newer  HTTP
  jansson 2.10 or newer          JSON
  zlib                           gzip bodies, PNG checksums
  stb_image.h                    image decoding (from nothings/stb, in an include path or its stb/ folder)
and for the tests:
  Criterion 2.4                  the test framework
  clang-format 14, curl, promtool (Prometheus)
END
    printf '%s\n' '#include <microhttpd.h>' '#include <jansson.h>' '#include <zlib.h>' \
        '#include <stb_image.h>' '#include <criterion/criterion.h>' |
        "${CC:-cc}" -I/usr/include/stb -I/usr/local/include/stb -E -o /dev/null - || exit 1
    echo "The headers are all here."
    exit 0
fi

missing=
for package in "$@"; do
    case $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) in
    installed) ;;
    *) missing="$missing $package" ;;
    esac
done
[ -n "$missing" ] || exit 0

root=
if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null; then
        echo "convd: run this as root: apt-get install --no-install-recommends$missing" >&2
        exit 1
    fi
    root=sudo
fi

echo "convd: installing$missing"
# shellcheck disable=SC2086 # a list of words
install() {
    $root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -q -y --no-install-recommends "$@" $missing
}
# The package lists of a fresh system are empty, and old ones name versions that are gone.
install --simulate >/dev/null 2>&1 || $root apt-get update -q || exit 1
install || { $root apt-get update -q && install; }
