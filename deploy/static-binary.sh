#!/usr/bin/env bash
# Builds the binary that needs nothing of the machine it runs on, for the image and the Debian package, and prints its path.
#
# The C library is linked in. What glibc would load at run time, other sources of host names than files and DNS, is not there
# then: names of LDAP or mDNS are not found.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
target=x86_64-unknown-linux-gnu
RUSTFLAGS="${RUSTFLAGS:-} -C target-feature=+crt-static" \
    "${CARGO:-cargo}" build --release --package evenkeel-cli --target "$target" >&2
printf '%s\n' "${CARGO_TARGET_DIR:-target}/$target/release/evenkeel"
