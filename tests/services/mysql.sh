#!/bin/sh
# mysql.sh NAME up [SERVER-OPTION...]           a private MySQL or MariaDB; prints its URL, also when it is up already
# mysql.sh NAME client PROGRAM ARGUMENT...      mysql, mysqladmin, mysqldump, mysqlbinlog .. of the tree, pointed at that server
# mysql.sh NAME down | wipe                     stops it; wipe also deletes its data
# NAME: mysql-9.7 and mariadb-11.8 (Debian sid), mariadb-10.11 (bookworm), mariadb-10.5 (bullseye).  Needs apt-get and dpkg-deb:
# Debian's own packages, signature-checked, are unpacked with all their libraries.  Root or not; the host's packages stay.
# Everything lies under $ROWSTREAM_SERVICES.  User root needs no password from 127.0.0.1; row binlog with FULL metadata, GTIDs.
# Where openssl exists, TLS is offered with a certificate for `localhost` only, signed by RUN/ca.pem; the log is RUN/log.
# NAME@OTHER keeps its data apart from NAME's (a second server of the same tree, such as a replica).
set -eu
full=$1 do=$2; shift 2
name=${full%%@*}
base=${ROWSTREAM_SERVICES:-/var/tmp/rowstream-services-$(id -u)} tree=$base/$name run=$base/$full.run data=$base/$full.run/data
die() { echo "mysql.sh: $*" >&2; exit 1; }
case $name in
  mysql-9.7)     suite=sid      packages="mysql-server-core mysql-client-core" server=mysqld plugins= ;;
  mariadb-11.8)  suite=sid      packages="mariadb-server-core mariadb-client" server=mariadbd plugins=mariadb-server ;;
  mariadb-10.11) suite=bookworm packages="mariadb-server-core mariadb-client" server=mariadbd plugins=mariadb-server ;;
  mariadb-10.5)  suite=bullseye packages="mariadb-server-core-10.5 mariadb-client-10.5" server=mariadbd plugins=mariadb-server-10.5 ;;
  *) die "no server $name: mysql-9.7, mariadb-11.8, mariadb-10.11 or mariadb-10.5" ;; esac
m=$(uname -m)-linux-gnu user=; [ "$(id -u)" != 0 ] || user=--user=root

from_debian() {
  st=$tree/.apt; mkdir -p "$st/lists/partial" "$st/cache/archives/partial"; : >"$st/status"
  mirror=${DEBIAN_MIRROR:-$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | head -n 1)}
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" >"$st/sources"
  cat >"$st/conf" <<X
Dir::Etc::main "/dev/null"; Dir::Etc::parts "/dev/null"; Dir::Etc::preferences "/dev/null"; Dir::Etc::preferencesparts "/dev/null";
Dir::Etc::sourcelist "$st/sources"; Dir::Etc::sourceparts "/dev/null"; Dir::State "$st"; Dir::State::status "$st/status";
Dir::State::Lists "$st/lists"; Dir::Cache "$st/cache"; Acquire::Languages "none"; Acquire::Retries "3"; Debug::NoLocking "true";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false"; Acquire::Check-Valid-Until "false"; APT::Sandbox::User "";
APT::Install-Recommends "false";
X
  # shellcheck disable=SC2086 # several packages
  APT_CONFIG=$st/conf apt-get -qq update && APT_CONFIG=$st/conf apt-get -qq -y --download-only install $packages >/dev/null
  for d in "$st"/cache/archives/*.deb; do dpkg-deb -x "$d" "$tree"; done
  if [ -n "$plugins" ]; then # of the whole server's package only what authenticates
    (cd "$st" && APT_CONFIG=$st/conf apt-get -qq download "$plugins" && dpkg-deb --fsys-tarfile ./"$plugins"_*.deb |
      tar -x -C "$tree" --wildcards './usr/lib/mysql/plugin/auth_*.so')
  fi
  rm -rf "$st" "$tree/usr/share/doc" "$tree/usr/share/man" "$tree/usr/share/locale"
}
program() { # Through the tree's own loader. Bullseye's ld-linux is an absolute link into the host, so its ld-2.31.so comes first.
  p=$1; shift
  ld=$(ls "$tree/lib/$m"/ld-2.*.so "$tree/lib/$m"/ld-linux-*.so.* "$tree/usr/lib/$m"/ld-linux-*.so.* 2>/dev/null | head -n 1)
  exec "$ld" --library-path "$tree/usr/lib/$m:$tree/lib/$m:$tree/usr/lib/mysql/private" "$tree/usr/$p" --no-defaults "$@"
}
serve() {
  share=$(dirname "$(ls "$tree"/usr/share/m*/english/errmsg.sys | head -n 1)")
  # shellcheck disable=SC2086 # none or one
  program "sbin/$server" $user --basedir="$tree/usr" --datadir="$data" --lc-messages-dir="${share%/*}" \
    --plugin-dir="$tree/usr/lib/mysql/plugin" "$@"
}
certificates() { # For `localhost` and not for 127.0.0.1, so that verify-ca and verify-full differ.
  command -v openssl >/dev/null || return 0
  (cd "$run" && exec 2>/dev/null
    openssl req -x509 -newkey rsa:2048 -nodes -days 3650 -subj /CN=rowstream-test-ca -keyout ca-key.pem -out ca.pem
    openssl req -newkey rsa:2048 -nodes -subj /CN=localhost -keyout server-key.pem -out server.csr
    echo "subjectAltName=DNS:localhost" >server.ext
    openssl x509 -req -in server.csr -CA ca.pem -CAkey ca-key.pem -CAcreateserial -days 3650 -extfile server.ext -out server-cert.pem)
}
make_data() {
  rm -rf "$run"; mkdir -p "$run"
  if [ $server = mysqld ]; then (serve --initialize-insecure >"$run/init.log" 2>&1) || die "see $run/init.log"
  else
    mkdir -p "$data/mysql"; tables=$(ls "$tree"/usr/share/m*/m*_system_tables.sql | head -n 1)
    (printf '%s;\n' "CREATE DATABASE IF NOT EXISTS mysql" "USE mysql" "SET @auth_root_socket=NULL"; cat "$tables" "${tables%.sql}_data.sql") |
      (serve --bootstrap >"$run/init.log" 2>&1) || die "see $run/init.log"
  fi
  cat >"$run/init.sql" <<X
CREATE USER IF NOT EXISTS 'root'@'127.0.0.1' IDENTIFIED BY '';
GRANT ALL ON *.* TO 'root'@'127.0.0.1' WITH GRANT OPTION;
X
  certificates; : >"$run/.ok"
}
start() {
  set -- --port="$port" --bind-address=127.0.0.1 --skip-name-resolve --socket="$run/sock" --pid-file="$run/pid" --server-id="$port" \
    --init-file="$run/init.sql" --log-bin=binlog --binlog-format=ROW --binlog-row-metadata=FULL --max-connections=300 \
    --local-infile=1 --secure-file-priv= "$@"
  if [ $server = mysqld ]; then # else the X plugin listens on [::]:33060
    set -- --mysqlx=OFF --gtid-mode=ON --enforce-gtid-consistency=ON "$@"; fi
  if [ -e "$run/server-cert.pem" ]; then
    set -- --ssl-ca="$run/ca.pem" --ssl-cert="$run/server-cert.pem" --ssl-key="$run/server-key.pem" "$@"; fi
  (serve "$@" </dev/null >"$run/log" 2>&1 9>&-) &
  n=0; until is_up; do # a server that dies at once lost the race for its port
    n=$((n + 1)); [ $n -lt 600 ] || die "no answer: $run/log"; kill -0 $! 2>/dev/null || return 1; sleep 0.1; done
  echo "$port" >"$run/port"
}
is_up() { [ -e "$run/pid" ] && kill -0 "$(cat "$run/pid")" 2>/dev/null && (program bin/mysqladmin -uroot -S "$run/sock" --silent ping >/dev/null 2>&1); }
case $do in
  client) is_up || die "not up"; p=$1; shift; [ -x "$tree/usr/bin/$p" ] || die "this build has no $p"
    program "bin/$p" -uroot -h127.0.0.1 -P"$(cat "$run/port")" "$@" ;;
  down|wipe) if is_up; then p=$(cat "$run/pid"); kill "$p"; while kill -0 "$p" 2>/dev/null; do sleep 0.1; done; fi
    [ "$do" = down ] || rm -rf "$run"; exit ;;
  up) ;; *) die "what is '$do'?" ;; esac
mkdir -p "$base"; exec 9>"$base/.lock"; flock 9 # one at a time; the server must not inherit the lock: 9>&-
if [ ! -e "$tree/.ok" ]; then rm -rf "$tree"; mkdir -p "$tree"; from_debian; : >"$tree/.ok"; fi
[ -e "$run/.ok" ] || make_data
if ! is_up; then
  rm -f "$run/pid"
  n=0; until port=$((20000 + $(od -An -N2 -tu2 /dev/urandom) % 12000)); start "$@"; do # the kernel judges which port is free
    n=$((n + 1)); [ $n -le 10 ] && grep -qi "address already in use" "$run/log" || die "does not start: $run/log"; done
fi
echo "mysql://root@127.0.0.1:$(cat "$run/port")/"
