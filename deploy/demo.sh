#!/usr/bin/env bash
# A shop's database and an outlet's (PostgreSQL and MariaDB), captured live: changes become Avro events on topics, a warehouse follows both
# row for row, and a receiver gets signed webhooks of the shop.
#   deploy/demo.sh            runs until Ctrl-C, then cleans up after itself
#   deploy/demo.sh --check    bounded and unattended: kills the daemon with SIGKILL in mid-flow, then compares source, topics, warehouse
#                             and receiver row by row; exit code 0 only if all agree
# Needs a Debian machine with Rust. PostgreSQL 15 and MariaDB 11.8 are unpacked under /var/tmp, beside whatever is installed; nothing of the machine changes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
say() { printf '\033[1m%s\033[0m\n' "$*"; }
die() { printf 'demo.sh: %s\n' "$*" >&2; exit 1; }
case "${1:-}" in "" | --check) ;; -h | --help) sed -n '2,7s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;; *) die "what is '$1'? Only --check is known" ;; esac

missing=()
need() { command -v "$1" >/dev/null 2>&1 || missing+=("$2"); }
need cc gcc
need python3 python3
need flock util-linux
need setpriv util-linux
need dpkg-deb dpkg
[ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || missing+=(debian-archive-keyring)
if [ ${#missing[@]} -gt 0 ]; then
    as=()
    if [ "$(id -u)" != 0 ]; then as=(sudo -n); fi
    command -v apt-get >/dev/null 2>&1 && "${as[@]}" true 2>/dev/null || die "missing packages: run as root: apt-get install -y ${missing[*]}"
    say "Installing ${missing[*]}"
    "${as[@]}" apt-get -qq update
    "${as[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -y install --no-install-recommends "${missing[@]}" >/dev/null
fi
command -v cargo >/dev/null 2>&1 || { [ -r "$HOME/.cargo/env" ] && . "$HOME/.cargo/env"; } || true
command -v cargo >/dev/null 2>&1 || die "cargo is missing: install Rust from https://rustup.rs"
if [ "$(. /etc/os-release && echo "$ID")" != debian ]; then
    export DEBIAN_MIRROR=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
fi

say "1/3  PostgreSQL 15 and MariaDB 11.8 (the first time they are downloaded: about twenty seconds)"
# Servers of the demo's own, so that their databases are nobody else's; they share the unpacked programs with the tests' servers.
shared=${ROWSTREAM_SERVICES:-/var/tmp/rowstream-services-$(id -u)}
export ROWSTREAM_SERVICES=$shared-demo
mkdir -p "$ROWSTREAM_SERVICES"
for tree in postgres-15 mariadb-11.8; do
    if [ -e "$shared/$tree/.ok" ] && [ ! -e "$ROWSTREAM_SERVICES/$tree" ]; then ln -s "$shared/$tree" "$ROWSTREAM_SERVICES/$tree"; fi
done
trap 'sh tests/services/postgres.sh 15 wipe; sh tests/services/mysql.sh mariadb-11.8 wipe' EXIT
postgres=$(sh tests/services/postgres.sh 15 up)
mariadb=$(sh tests/services/mysql.sh mariadb-11.8 up)
echo "     $postgres"
echo "     $mariadb"
say "2/3  Building rowstream (the first time a few minutes; cargo shows how far it is)"
cargo build --release --bin rowstream
target=$(cargo metadata --format-version 1 --no-deps --offline | python3 -c 'import json, sys; print(json.load(sys.stdin)["target_directory"])')
say "3/3  Starting"
trap : INT # Ctrl-C is for shop.py, which ends in order; then the servers go.
python3 -B deploy/demo/shop.py --binary "$target/release/rowstream" --postgres "$postgres" --mariadb "$mariadb" "$@"
