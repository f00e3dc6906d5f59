#!/bin/sh
# image.sh BINARY DIRECTORY   lays out the image's whole file system: the binary, every library it links, the authorities of TLS, a user.
# deploy/Dockerfile copies it into an empty image; tests/deploy runs it as it is.
set -eu
binary=$1 out=$2
[ ! -e "$out" ] || { echo "image.sh: $out is there already" >&2; exit 1; }
mkdir -p "$out/usr/bin" "$out/etc/ssl/certs" "$out/etc/rowstream" "$out/var/lib/rowstream" "$out/tmp" "$out/proc" "$out/dev"
cp "$binary" "$out/usr/bin/rowstream"
chmod 755 "$out/usr/bin/rowstream"
# `name => /path (address)` and, for the loader itself, `/path (address)`.
libraries=$(ldd "$binary" | sed -n -e 's/.*=> \(\/[^ ]*\) (.*/\1/p' -e 's/^[[:space:]]*\(\/[^ ]*\) (.*/\1/p')
[ -n "$libraries" ] || { echo "image.sh: ldd told no libraries of $binary" >&2; exit 1; }
! ldd "$binary" | grep -q 'not found' || { ldd "$binary" >&2; exit 1; }
for library in $libraries; do
    mkdir -p "$out$(dirname "$library")"
    cp -L "$library" "$out$library"
done
cp -L /etc/ssl/certs/ca-certificates.crt "$out/etc/ssl/certs/"
echo 'rowstream:x:65532:65532::/var/lib/rowstream:/sbin/nologin' >"$out/etc/passwd"
echo 'rowstream:x:65532:' >"$out/etc/group"
echo 'hosts: files dns' >"$out/etc/nsswitch.conf"
