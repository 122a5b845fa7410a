#!/usr/bin/env bash
# Builds the image from a static binary:
#
#   deploy/image/build.sh [BINARY [TAG]]
#
# BINARY is by default what ../static-binary.sh builds, TAG evenkeel:VERSION. Nothing is pulled.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
binary="${1:-$root/target/x86_64-unknown-linux-gnu/release/evenkeel}"
if [ ! -x "$binary" ]; then
    printf '%s: no such program; run deploy/static-binary.sh first\n' "$binary" >&2
    exit 1
fi
if readelf --program-headers "$binary" | grep -q INTERP; then
    printf '%s: needs shared libraries, which the image does not have; build it with deploy/static-binary.sh\n' "$binary" >&2
    exit 1
fi
version="$("$binary" --version | cut -d' ' -f2)"
tag="${2:-evenkeel:$version}"
revision="$(git -C "$root" rev-parse HEAD 2> /dev/null || printf unknown)"
created="$(date --utc --date="@${SOURCE_DATE_EPOCH:-$(date +%s)}" +%Y-%m-%dT%H:%M:%SZ)"

context="$(mktemp -d)"
trap 'rm -rf "$context"' EXIT
mkdir -p "$context/rootfs/etc" "$context/data"
# Names of functions stay, for whoever reads a panic; lines go.
strip --strip-debug -o "$context/rootfs/evenkeel" "$binary"
chmod 0755 "$context/rootfs/evenkeel"
printf 'evenkeel:x:65532:65532::/var/lib/evenkeel:/sbin/nologin\n' > "$context/rootfs/etc/passwd"
printf 'evenkeel:x:65532:\n' > "$context/rootfs/etc/group"
# The C library within the binary looks names up by these alone: other sources would be shared libraries.
printf 'hosts: files dns\n' > "$context/rootfs/etc/nsswitch.conf"
cp "$root/deploy/image/Dockerfile" "$context/"

docker build --quiet --tag "$tag" --build-arg "VERSION=$version" --build-arg "REVISION=$revision" \
    --build-arg "CREATED=$created" "$context" > /dev/null
printf '%s\n' "$tag"
