#!/usr/bin/env bash
# Checks deploy/: chart, alerts, dashboards, runbooks, image, systemd unit.   tests/deploy/run.sh [ROWSTREAM-BINARY]
# Whatever can't be had here is left out, and says so in a line that begins with SKIPPED.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
binary=${1:-}
services=${ROWSTREAM_SERVICES:-/var/tmp/rowstream-services-$(id -u)}
failed=0
part() { echo "-- $*"; }
fail() { echo "FAILED  $*"; failed=1; }
skip() { echo "SKIPPED deploy: $*"; }

part "chart, alerts, dashboards, runbooks, compose"
if tools=$(sh tests/services/charts.sh); then
    "$tools/venv/bin/python3" tests/deploy/check.py "$tools" ${binary:+"$binary"} || fail "tests/deploy/check.py"
    "$tools/bin/promtool" check rules deploy/alerts/rowstream.yaml || fail "promtool check rules"
    "$tools/bin/promtool" test rules tests/deploy/alerts_test.yaml || fail "promtool test rules"
    tests=$(grep -c 'alertname: ' tests/deploy/alerts_test.yaml)
    for alert in $(sed -n 's/^ *- alert: //p' deploy/alerts/rowstream.yaml); do
        grep -A1 -E "alertname: $alert\$" tests/deploy/alerts_test.yaml | grep -q exp_alerts || fail "alert $alert has no test in which it fires"
        grep -qE "alertname: $alert }" tests/deploy/alerts_test.yaml || fail "alert $alert has no test in which it stays quiet"
    done
    echo "$tests expectations of alerts"
else
    case $? in 69) skip "helm lint, helm template, kubeconform, promtool, dashboards: the tools can't be had (see above)" ;; *) fail "charts.sh" ;; esac
fi

part "dashboards are what build.py writes"
python3 deploy/dashboards/build.py --check || fail "deploy/dashboards"

part "systemd unit"
if command -v systemd-analyze >/dev/null 2>&1; then
    work=$(mktemp -d)
    # The program is not installed where the unit says; any that is there will do for the check.
    sed "s|^ExecStart=/usr/bin/rowstream|ExecStart=$(command -v true)|" deploy/systemd/rowstream.service >"$work/rowstream.service"
    said=$(systemd-analyze verify --man=no "$work/rowstream.service" 2>&1) && [ -z "$said" ] || fail "systemd-analyze verify: $said"
    # 0 is walled in, 10 is not at all. Its own scale; above 2 a line of the unit's hardening has gone.
    if systemd-analyze --help | grep -q -e --threshold; then
        systemd-analyze security --no-pager --offline=true --threshold=20 "$work/rowstream.service" >"$work/said" 2>&1 ||
            fail "systemd-analyze security: $(tail -n 1 "$work/said")"
        tail -n 1 "$work/said"
    else
        skip "systemd-analyze security: this systemd has no --threshold"
    fi
    rm -rf "$work"
else
    skip "systemd-analyze verify: no systemd-analyze here"
fi

part "image"
if [ -z "$binary" ]; then
    skip "the image's file system: no binary was given"
elif ! unshare --mount --map-root-user --user true 2>/dev/null && ! unshare --mount true 2>/dev/null; then
    skip "the image's file system: no mount namespaces here (unshare)"
else
    python3 tests/deploy/image.py "$binary" || fail "tests/deploy/image.py"
fi
command -v buildctl >/dev/null 2>&1 || docker info >/dev/null 2>&1 || skip "docker build: no Docker daemon here"
if docker info >/dev/null 2>&1; then
    docker build -q -f deploy/Dockerfile -t rowstream:test . && docker run --rm --read-only --cap-drop ALL rowstream:test version || fail "docker build"
fi
exit "$failed"
