#!/usr/bin/env bash
# Builds the Debian package from a static binary, which needs no other package, and prints its path:
#
#   deploy/deb/build.sh [BINARY [FOLDER]]
#
# BINARY is by default what ../static-binary.sh builds, FOLDER, where the package goes, that of the binary.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
binary="${1:-$root/target/x86_64-unknown-linux-gnu/release/evenkeel}"
if [ ! -x "$binary" ]; then
    printf '%s: no such program; run deploy/static-binary.sh first\n' "$binary" >&2
    exit 1
fi
folder="${2:-$(dirname "$binary")}"
version="$("$binary" --version | cut -d' ' -f2)"
package="$folder/evenkeel_$version-1_amd64.deb"
stage="$(mktemp -d)"
trap 'rm -rf "$stage"' EXIT
umask 022
chmod 0755 "$stage"

doc="$stage/usr/share/doc/evenkeel"
install -d "$stage/DEBIAN" "$stage/usr/bin" "$stage/usr/lib/systemd/system" "$stage/usr/lib/sysusers.d" \
    "$stage/usr/lib/tmpfiles.d" "$doc/examples" "$stage/usr/share/man/man1"
strip --strip-unneeded -o "$stage/usr/bin/evenkeel" "$binary"
chmod 0755 "$stage/usr/bin/evenkeel"
install -m 0644 "$root"/deploy/evenkeel-{broker,gateway}.service "$stage/usr/lib/systemd/system/"
install -m 0644 "$root/deploy/deb/sysusers.conf" "$stage/usr/lib/sysusers.d/evenkeel.conf"
install -m 0644 "$root/deploy/deb/tmpfiles.conf" "$stage/usr/lib/tmpfiles.d/evenkeel.conf"
# Examples, and no settings: there are none that would be right for everybody.
install -m 0644 "$root"/deploy/{broker,gateway}.toml "$root/deploy/prometheus.yml" "$doc/examples/"
install -m 0644 "$root/deploy/deb/copyright" "$doc/copyright"
sed "s/@VERSION@/$version/" "$root/deploy/deb/changelog" | gzip -9n > "$doc/changelog.Debian.gz"
chmod 0644 "$doc/changelog.Debian.gz"
# A page for each command, and what shells know of them, as the program itself tells.
"$binary" man --dir "$stage/usr/share/man/man1" 2> /dev/null
gzip -9n "$stage"/usr/share/man/man1/*.1
chmod 0644 "$stage"/usr/share/man/man1/*.1.gz
install -d "$stage/usr/share/bash-completion/completions" "$stage/usr/share/zsh/vendor-completions" \
    "$stage/usr/share/fish/vendor_completions.d"
"$binary" completion bash > "$stage/usr/share/bash-completion/completions/evenkeel"
"$binary" completion zsh > "$stage/usr/share/zsh/vendor-completions/_evenkeel"
"$binary" completion fish > "$stage/usr/share/fish/vendor_completions.d/evenkeel.fish"

size="$(du --summarize --apparent-size --block-size=1024 "$stage/usr" | cut -f1)"
sed -e "s/@VERSION@/$version/" -e "s/@SIZE@/$size/" "$root/deploy/deb/control" > "$stage/DEBIAN/control"
install -m 0755 "$root"/deploy/deb/{postinst,prerm,postrm} "$stage/DEBIAN/"
(cd "$stage" && find usr -type f -print0 | sort --zero-terminated | xargs --null md5sum) > "$stage/DEBIAN/md5sums"
dpkg-deb --root-owner-group -Zxz --build "$stage" "$package" > /dev/null
printf '%s\n' "$package"
