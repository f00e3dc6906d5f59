#!/usr/bin/env bash
# The test command: installs and starts what the tests need, then runs them all.
#   tests/run.sh [cargo test arguments]
# Servers run on private ports and directories (tests/services), so it can be run twice, from anywhere, beside anything.
#   ROWSTREAM_SERVICES       where servers live          (default /var/tmp/rowstream-services-UID)
#   ROWSTREAM_TEST_POSTGRES  the version most tests use  (default 15)
#   ROWSTREAM_TEST_MYSQL     (default mysql-9.7)
#   ROWSTREAM_TEST_MARIADB   (default mariadb-11.8; see tests/services/mysql.sh)
#   ROWSTREAM_PACKAGES=no    never install a package of the machine
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
started=$SECONDS
say() { printf '\n== %s (%d s)\n' "$*" "$((SECONDS - started))"; }
die() { printf 'tests/run.sh: %s\n' "$*" >&2; exit 1; }

# Programs and the packages of Debian and Ubuntu that have them.
missing=()
need() { command -v "$1" >/dev/null 2>&1 || missing+=("$2"); }
need cc gcc
need c++ g++ # librdkafka is built from its sources
need make make
need pkg-config pkg-config
need java default-jre-headless # Kafka
need mvn maven
[ -e /usr/include/zlib.h ] || missing+=(zlib1g-dev)
[ -e /usr/include/openssl/ssl.h ] || missing+=(libssl-dev)
need python3 python3
need openssl openssl
need flock util-linux
need setpriv util-linux
need dpkg-deb dpkg
need mkfs.ext4 e2fsprogs
python3 -c 'import ensurepip, venv' >/dev/null 2>&1 || missing+=(python3-venv)
[ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || missing+=(debian-archive-keyring)
if [ ${#missing[@]} -gt 0 ]; then
    as=()
    if [ "$(id -u)" != 0 ]; then as=(sudo -n); fi
    [ "${ROWSTREAM_PACKAGES:-yes}" = yes ] && command -v apt-get >/dev/null 2>&1 && "${as[@]}" true 2>/dev/null ||
        die "these packages are missing and can't be installed from here: ${missing[*]}
run as root:  apt-get install -y ${missing[*]}"
    say "installing ${missing[*]}"
    "${as[@]}" apt-get -qq update
    "${as[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -y install --no-install-recommends "${missing[@]}" >/dev/null
fi
[ -x "$(command -v cargo || true)" ] || { [ -r "$HOME/.cargo/env" ] && . "$HOME/.cargo/env"; } || true
command -v cargo >/dev/null 2>&1 || die "cargo is missing: install Rust from https://rustup.rs"

# The servers are Debian's packages, on Ubuntu too.
if [ "$(. /etc/os-release && echo "$ID")" != debian ]; then
    export DEBIAN_MIRROR=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
fi
export ROWSTREAM_SERVICES=${ROWSTREAM_SERVICES:-/var/tmp/rowstream-services-$(id -u)}
export ROWSTREAM_TEST_POSTGRES=${ROWSTREAM_TEST_POSTGRES:-15}
say "starting PostgreSQL $ROWSTREAM_TEST_POSTGRES"
up() { sh tests/services/postgres.sh "$1" up; }
up "$ROWSTREAM_TEST_POSTGRES"
# The private servers of the tests for wrong settings are made of this one's tree.
[ "$ROWSTREAM_TEST_POSTGRES" = 15 ] || up 15
say "starting Kafka"
bash tests/services/kafka.sh up

say "starting a schema registry"
sh tests/services/registry.sh shared up
# MySQL and MariaDB: the tests of connectors/mysql run on both. Another version: the name in the variable, e.g. mariadb-10.11.
export ROWSTREAM_TEST_MYSQL=${ROWSTREAM_TEST_MYSQL:-mysql-9.7} ROWSTREAM_TEST_MARIADB=${ROWSTREAM_TEST_MARIADB:-mariadb-11.8}
say "starting $ROWSTREAM_TEST_MYSQL and $ROWSTREAM_TEST_MARIADB"
for server in "$ROWSTREAM_TEST_MYSQL" "$ROWSTREAM_TEST_MARIADB"; do sh tests/services/mysql.sh "$server" up; done

# What a killed test process left behind holds slots and WAL: everything named for a process that is gone goes.
leftovers() {
    local psql=(sh tests/services/postgres.sh "$1" client psql -XAtq -d postgres) kind name
    "${psql[@]}" -F ' ' -c "SELECT 'slot' AS kind, slot_name FROM pg_replication_slots WHERE NOT active
        UNION ALL SELECT 'database', datname FROM pg_database ORDER BY kind DESC" | while read -r kind name; do
        [[ $name =~ _([0-9]+)_[0-9]+(_slot)?$ ]] && [ ! -d "/proc/${BASH_REMATCH[1]}" ] || continue
        case $kind in
        slot) "${psql[@]}" -c "SELECT pg_drop_replication_slot('$name')" </dev/null >/dev/null || echo "slot $name stays" ;;
        database) "${psql[@]}" -c "DROP DATABASE \"$name\" WITH (FORCE)" </dev/null >/dev/null || echo "database $name stays" ;;
        esac
    done
}
leftovers 15
# Registries of single tests go too.
for left in "$ROWSTREAM_SERVICES"/registry-*-[0-9]*.run; do
    name=${left##*/registry-} name=${name%.run}
    if [ -d "$left" ] && [ ! -d "/proc/${name##*-}" ]; then sh tests/services/registry.sh "$name" wipe; fi
done
mysql_leftovers() {
    local program=mysql name
    [ "${1#mysql}" != "$1" ] || program=mariadb
    local client=(sh tests/services/mysql.sh "$1" client "$program" --batch --skip-column-names)
    "${client[@]}" -e "SHOW DATABASES" 2>/dev/null | while read -r name; do
        [[ $name =~ _([0-9]+)_[0-9]+$ ]] && [ ! -d "/proc/${BASH_REMATCH[1]}" ] || continue
        "${client[@]}" -e "DROP DATABASE \`$name\`" </dev/null 2>/dev/null || echo "database $name stays"
    done
}
mysql_leftovers "$ROWSTREAM_TEST_MYSQL"
mysql_leftovers "$ROWSTREAM_TEST_MARIADB"
topics_left_over() {
    local topics=(bash tests/services/kafka.sh tool org.apache.kafka.tools.TopicCommand
        --bootstrap-server "$(bash tests/services/kafka.sh url)") name gone=()
    for name in $("${topics[@]}" --list); do
        if [[ $name =~ -([0-9]+)-[0-9]+ ]] && [ ! -d "/proc/${BASH_REMATCH[1]}" ]; then gone+=("${name//./\\.}"); fi
    done
    [ ${#gone[@]} = 0 ] || "${topics[@]}" --delete --topic "$(IFS='|'; echo "${gone[*]}")"
}
topics_left_over

say "building and running the tests"
status=0
cargo test --workspace --no-fail-fast "$@" 2>&1 | tee "$ROWSTREAM_SERVICES/last-test-run.log" || status=$?

# The chart, the alerts, the image: not when only some tests were asked for.
if [ $# = 0 ]; then
    say "checking deploy/"
    target=$(cargo metadata --format-version 1 --no-deps --offline | python3 -c 'import json, sys; print(json.load(sys.stdin)["target_directory"])')
    bash tests/deploy/run.sh "$target/debug/rowstream" 2>&1 | tee -a "$ROWSTREAM_SERVICES/last-test-run.log" || status=$?
    for application in field-service signup order-tracking liberate; do
        say "checking the application $application"
        ROWSTREAM_DEMO_BINARY=$target/debug/rowstream deploy/demo.sh "$application" --check </dev/null 2>&1 |
            tee -a "$ROWSTREAM_SERVICES/last-test-run.log" || { status=$?; echo "FAILED application $application"; }
    done
fi

say "summary"
log=$ROWSTREAM_SERVICES/last-test-run.log
awk '/^test result:/ { passed += $4; failed += $6; ignored += $8; binaries++ }
     END { printf "%d passed, %d failed, %d ignored, in %d test binaries\n", passed, failed, ignored, binaries }' "$log"
grep -E '^(test .* FAILED|FAILED |SKIPPED )' "$log" || true
if [ "$status" = 0 ]; then echo "all tests passed"; else echo "FAILED (exit code $status); the whole output: $log"; fi
exit "$status"
