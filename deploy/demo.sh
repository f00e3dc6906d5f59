#!/usr/bin/env bash
# A shop's database and an outlet's (PostgreSQL and MariaDB), captured live: changes become Avro events on topics, a warehouse follows both
# row for row, and a receiver gets signed webhooks of the shop.
#   deploy/demo.sh            runs until Ctrl-C, then cleans up after itself
#   deploy/demo.sh --kafka    the same on a real Kafka broker, with two workers of one group; one of them is killed
#   deploy/demo.sh --check    bounded and unattended: kills the daemon with SIGKILL in mid-flow, then compares source, topics, warehouse
#                             and receiver row by row; exit code 0 only if all agree. With --kafka too: each kill hits the worker that
#                             runs the source
#   deploy/demo.sh NAME       an application of config/examples, live or with --check: field-service, signup, order-tracking, liberate
# Needs a Debian machine with Rust. PostgreSQL 15 and MariaDB 11.8 (and Kafka) are unpacked under /var/tmp, beside whatever is installed; nothing of the
# machine changes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
say() { printf '\033[1m%s\033[0m\n' "$*"; }
die() { printf 'demo.sh: %s\n' "$*" >&2; exit 1; }
kafka="" application="" options=()
for option in "$@"; do
    case "$option" in
    --kafka) kafka=yes ;;
    --check) options+=(--check) ;;
    field-service | signup | order-tracking | liberate) application=$option ;;
    -h | --help) sed -n '2,11s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
    *) die "what is '$option'? Only --kafka, --check and the applications of config/examples are known: field-service, signup, order-tracking, liberate" ;;
    esac
done
[ -z "$application" ] || [ -z "$kafka" ] || die "$application runs on the embedded log; leave --kafka out"

missing=()
need() { command -v "$1" >/dev/null 2>&1 || missing+=("$2"); }
need cc gcc
need c++ g++ # librdkafka is built from its sources
need make make
need pkg-config pkg-config
[ -e /usr/include/zlib.h ] || missing+=(zlib1g-dev)
[ -e /usr/include/openssl/ssl.h ] || missing+=(libssl-dev)
need python3 python3
need flock util-linux
need setpriv util-linux
need dpkg-deb dpkg
if [ "$kafka" ]; then
    need java default-jre-headless
    need mvn maven
    need openssl openssl
fi
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

if [ "$kafka" ]; then steps=4; else steps=3; fi
step=0
next() { step=$((step + 1)); say "$step/$steps  $*"; }
next "PostgreSQL 15 and MariaDB 11.8 (the first time they are downloaded: about twenty seconds)"
# Servers of the demo's own, so that their databases are nobody else's; they share the unpacked programs with the tests' servers.
shared=${ROWSTREAM_SERVICES:-/var/tmp/rowstream-services-$(id -u)}
export ROWSTREAM_SERVICES=$shared-demo
mkdir -p "$ROWSTREAM_SERVICES"
share() { if [ -e "$shared/$1/.ok" ] && [ ! -e "$ROWSTREAM_SERVICES/$1" ]; then ln -s "$shared/$1" "$ROWSTREAM_SERVICES/$1"; fi; }
for tree in postgres-15 mariadb-11.8; do share "$tree"; done
kafka_port=18392 # a cluster of the demo's own, too
clean_up() {
    sh tests/services/postgres.sh 15 wipe
    sh tests/services/mysql.sh mariadb-11.8 wipe
    if [ "$kafka" ]; then KAFKA_PORT=$kafka_port bash tests/services/kafka.sh wipe; fi
}
trap clean_up EXIT
postgres=$(sh tests/services/postgres.sh 15 up)
mariadb=$(sh tests/services/mysql.sh mariadb-11.8 up)
echo "     $postgres"
echo "     $mariadb"
if [ "$kafka" ]; then
    next "Kafka (the first time it is downloaded: about twenty seconds)"
    for tree in "$shared"/kafka-*/.ok; do tree=${tree%/.ok}; share "${tree##*/}"; done
    KAFKA_PORT=$kafka_port bash tests/services/kafka.sh wipe
    kafka=$(KAFKA_PORT=$kafka_port bash tests/services/kafka.sh up)
    echo "     $kafka"
    options+=(--kafka "$kafka")
fi
next "Building rowstream (the first time a few minutes; cargo shows how far it is)"
binary=${ROWSTREAM_DEMO_BINARY:-} # one that is built already
if [ -z "$binary" ]; then
    cargo build --release --bin rowstream
    binary=$(cargo metadata --format-version 1 --no-deps --offline |
        python3 -c 'import json, sys; print(json.load(sys.stdin)["target_directory"])')/release/rowstream
fi
next "Starting"
script=${application//-/_}
trap : INT # Ctrl-C is for the script, which ends in order; then the servers go.
python3 -B "deploy/demo/${script:-shop}.py" --binary "$binary" --postgres "$postgres" --mariadb "$mariadb" ${options[@]+"${options[@]}"}
