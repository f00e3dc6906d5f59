#!/usr/bin/env bash
# Fuzzes a decoder for some seconds and keeps what it found worth keeping.
#   tests/fuzz/run.sh                   the targets
#   tests/fuzz/run.sh TARGET [SECONDS]  default 600; exit code 0 when nothing was found
# Inputs that reach new code are kept in tests/fuzz/corpus/TARGET, minimised; one that fails is left beside it as crash-*.
# Stable Rust does: the instrumentation is LLVM's own pass, libFuzzer is compiled by the C++ compiler.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
if [ $# = 0 ]; then sed -n 's/^name = "\([a-z_]*\)"$/\1/p' Cargo.toml; exit; fi
target=$1 seconds=${2:-600}
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}
triple=$(rustc -vV | sed -n 's/^host: //p')
RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1" \
    cargo build --release --target "$triple" --bin "$target"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "corpus/$target" "$work/new" "$work/merged"
"$CARGO_TARGET_DIR/$triple/release/$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -max_len=4096 \
    -artifact_prefix="corpus/$target-" -print_final_stats=1 "$work/new" "corpus/$target"
"$CARGO_TARGET_DIR/$triple/release/$target" -merge=1 "$work/merged" "corpus/$target" "$work/new"
rm -rf "corpus/$target"
mv "$work/merged" "corpus/$target"
