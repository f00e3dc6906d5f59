#!/usr/bin/env bash
# tests/bench/run.sh [NAME...] [--rows N] [--runs N] [--json FILE]     measures rowstream against what its systems can do themselves
# Names: pg-stream-small pg-stream-large pg-snapshot pg-sink-upsert mysql-stream-small mysql-stream-bulk mysql-snapshot mariadb-stream-small
# mysql-sink-upsert latency mysql-latency idle, and on Kafka pg-kafka-stream mysql-kafka-stream kafka-pg-sink kafka-latency. All without a name.
# Reference and rowstream take turns on the same data; medians are printed, ratios first. Servers of its own are started for it and
# removed after.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
case "${1:-}" in -h | --help) sed -n '2,6s/^# //p' "${BASH_SOURCE[0]}"; exit 0 ;; esac
sh tests/services/postgres.sh 15 up >/dev/null # unpacks it
sh tests/services/mysql.sh mysql-9.7 up >/dev/null
sh tests/services/mysql.sh mariadb-11.8 up >/dev/null
# In one go: each package alone would have its dependencies built with features of its own.
cargo build --release -p rowstream -p rowstream-kafka-ffi --bin rowstream --example upsert_ceiling --example bare_producer --example watch
target=$(cargo metadata --format-version 1 --no-deps --offline | python3 -c 'import json, sys; print(json.load(sys.stdin)["target_directory"])')
exec python3 tests/bench/main.py --binary "$target/release/rowstream" "$@"
