#!/usr/bin/env bash
# kafka.sh up                    a private Apache Kafka (KRaft) on 127.0.0.1; prints its bootstrap servers, also when it is up already
# kafka.sh kill|stop|start|pid N SIGKILLs, stops, starts a node (from 1) or tells its process
# kafka.sh url | ca              its bootstrap servers; the file of the authority that signed its certificate and, beside it, client.pem
# kafka.sh tool CLASS ARG...     one of Kafka's own tools, such as org.apache.kafka.tools.TopicCommand
# kafka.sh down | wipe           stops it; wipe also deletes its data
# KAFKA_VERSION=4.3.1  KAFKA_NODES=1|3  KAFKA_PORT=19092 (the first of a range of 50; each port is a cluster of its own)  KAFKA_HEAP=384m
# KAFKA_TIER=4|1 of the JVM's compilers: with 1 a node is up in two thirds of the time, and slower at work.
# KAFKA_PROPERTIES, lines of `name=value`, is laid over the properties of a new cluster's nodes.
# Ports of node N: PORT+N-1 plain, +10 controller, +20 SASL_SSL (user and password `rowstream`; SCRAM and PLAIN), +30 for a proxy on +40.
# Needs java 17+, mvn and openssl. Everything lies under $ROWSTREAM_SERVICES.
set -euo pipefail
version=${KAFKA_VERSION:-4.3.1} log4j=2.25.4 # pinned: a newer version is listed before all of its parts are there
nodes=${KAFKA_NODES:-1} port=${KAFKA_PORT:-19092} heap=${KAFKA_HEAP:-384m} password=rowstream
base=${ROWSTREAM_SERVICES:-/var/tmp/rowstream-services-$(id -u)}
tree=$base/kafka-$version run=$base/kafka-$version.$port
jvm=(-XX:+UseSerialGC "-XX:TieredStopAtLevel=${KAFKA_TIER:-4}" -Xshare:auto -XX:-UsePerfData)
[ ! -e "$tree/classes.jsa" ] || jvm+=("-XX:SharedArchiveFile=$tree/classes.jsa")
die() { echo "kafka.sh: $*" >&2; exit 1; }

fetch() { # the broker and the tools are two artifacts; Connect's jars, which the tools drag in, are left out
    [ -e "$tree/.ok" ] && return
    rm -rf "$tree"; mkdir -p "$tree"
    local pom=$tree/pom.xml without="" x
    dependency() { echo "<dependency><groupId>$1</groupId><artifactId>$2</artifactId><version>$3</version>${4:-}</dependency>"; }
    for x in connect-runtime connect-json connect-api; do
        without+="<exclusion><groupId>org.apache.kafka</groupId><artifactId>$x</artifactId></exclusion>"
    done
    {
        echo '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>'
        echo '<groupId>t</groupId><artifactId>t</artifactId><version>1</version><packaging>pom</packaging><dependencies>'
        dependency org.apache.kafka kafka_2.13 "$version"
        dependency org.apache.kafka kafka-tools "$version" "<exclusions>$without</exclusions>"
        for x in log4j-api log4j-core log4j-slf4j-impl; do dependency org.apache.logging.log4j $x $log4j; done
        echo '</dependencies></project>'
    } >"$pom"
    mvn -q -B -ntp -f "$pom" org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies \
        -DincludeScope=runtime -DoutputDirectory="$tree" >&2 || die "Maven could not fetch Kafka $version"
    printf '%s\n' 'status=error' 'appender.f.type=File' 'appender.f.name=F' 'appender.f.fileName=${sys:log.file:-/dev/stderr}' \
        'appender.f.layout.type=PatternLayout' 'appender.f.layout.pattern=%d{HH:mm:ss.SSS} %p %c{1}: %m%n' \
        'rootLogger.level=${sys:log.level:-info}' 'rootLogger.appenderRef.f.ref=F' >"$tree/log4j2.properties"
    : >"$tree/.ok"
}
tool() { java "${jvm[@]}" -Xmx256m -Dlog.level=error -Dlog4j2.configurationFile="$tree/log4j2.properties" -cp "$tree/*" "$@"; }

certificates() { # an authority, its certificate for localhost (the broker wants key and chain in one file), and one for a client
    [ -e "$run/tls/server.pem" ] && return
    mkdir -p "$run/tls"
    (
        cd "$run/tls"
        openssl req -x509 -newkey rsa:2048 -nodes -days 3650 -subj "/CN=rowstream-test-ca" -keyout ca.key -out ca.pem
        openssl req -newkey rsa:2048 -nodes -subj "/CN=localhost" -keyout s.key -out s.csr
        printf 'subjectAltName=DNS:localhost,IP:127.0.0.1\n' >extensions
        openssl x509 -req -in s.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 3650 -extfile extensions -out s.crt
        openssl pkcs8 -topk8 -nocrypt -in s.key -out s.p8
        openssl req -newkey rsa:2048 -nodes -subj "/CN=worker" -keyout client.key -out c.csr
        openssl x509 -req -in c.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 3650 -out client.pem
        cat s.p8 s.crt ca.pem >server.pem
    ) 2>/dev/null
}

properties() { # of node $1
    local i=$1 n voters=() replicas=$((nodes < 3 ? 1 : 3)) in_sync=$((nodes < 3 ? 1 : 2))
    local open="PLAINTEXT://127.0.0.1:$((port + i - 1)),SASL_SSL://127.0.0.1:$((port + 20 + i - 1))"
    for n in $(seq "$nodes"); do voters+=("$n@127.0.0.1:$((port + 10 + n - 1))"); done
    printf '%s\n' process.roles=broker,controller node.id="$i" controller.quorum.voters="$(IFS=,; echo "${voters[*]}")" \
        controller.listener.names=CONTROLLER \
        listeners="$open,PROXIED://127.0.0.1:$((port + 30 + i - 1)),CONTROLLER://127.0.0.1:$((port + 10 + i - 1))" \
        advertised.listeners="$open,PROXIED://127.0.0.1:$((port + 40 + i - 1))" \
        inter.broker.listener.name=PLAINTEXT log.dirs="$run/n$i/data" \
        listener.security.protocol.map=PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_SSL:SASL_SSL \
        default.replication.factor=$replicas min.insync.replicas=$in_sync offsets.topic.replication.factor=$replicas \
        offsets.topic.num.partitions=8 transaction.state.log.replication.factor=$replicas transaction.state.log.min.isr=$in_sync \
        transaction.state.log.num.partitions=8 share.coordinator.state.topic.replication.factor=$replicas \
        share.coordinator.state.topic.min.isr=1 num.partitions=1 group.initial.rebalance.delay.ms=0 \
        group.min.session.timeout.ms=1000 auto.create.topics.enable=false \
        broker.session.timeout.ms=3000 broker.heartbeat.interval.ms=500 log.cleaner.backoff.ms=1000 \
        ssl.keystore.type=PEM ssl.keystore.location="$run/tls/server.pem" ssl.truststore.type=PEM \
        ssl.truststore.location="$run/tls/ca.pem" sasl.enabled.mechanisms=SCRAM-SHA-256,SCRAM-SHA-512,PLAIN
    local scram=org.apache.kafka.common.security.scram.ScramLoginModule plain=org.apache.kafka.common.security.plain.PlainLoginModule
    printf '%s\n' "listener.name.sasl_ssl.plain.sasl.jaas.config=$plain required user_rowstream=\"$password\";" \
        "listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config=$scram required;" \
        "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config=$scram required;" "${KAFKA_PROPERTIES:-}"
}

archive() { # a broker's classes, ready to be mapped: every later start takes half the time
    [ ! -e "$tree/classes.jsa" ] || return 0
    (
        run=$tree/archiving port=19042 nodes=1 KAFKA_PROPERTIES=""
        trap 'halt 1 KILL; rm -rf "$run"' EXIT
        rm -rf "$run"; mkdir -p "$run"; certificates
        jvm+=("-XX:ArchiveClassesAtExit=$tree/classes.new")
        start 1; ready 1; halt 1 TERM
        mv "$tree/classes.new" "$tree/classes.jsa"
    ) || { echo "kafka.sh: without an archive of classes; brokers start more slowly" >&2; return 0; }
    jvm+=("-XX:SharedArchiveFile=$tree/classes.jsa")
}

alive() { # one that has ended may wait for its parent for a while: it runs no more
    local state
    [ -e "$run/n$1/pid" ] && read -r _ _ state _ 2>/dev/null <"/proc/$(cat "$run/n$1/pid")/stat" && [ "$state" != Z ]
}

start() {
    local i=$1 dir=$run/n$1
    if alive "$i"; then return; fi
    mkdir -p "$dir"
    if [ ! -e "$dir/data/meta.properties" ]; then
        # Each cluster has an identity of its own, as in real life: a log is known by it.
        [ -e "$run/cluster" ] || openssl rand -base64 16 | tr '+/' '-_' | tr -d '=\n' | sed 's/^-/A/' >"$run/cluster"
        properties "$i" >"$dir/server.properties"
        tool kafka.tools.StorageTool format -t "$(cat "$run/cluster")" -c "$dir/server.properties" \
            --add-scram "SCRAM-SHA-256=[name=rowstream,password=$password]" \
            --add-scram "SCRAM-SHA-512=[name=rowstream,password=$password]" >"$dir/format.log" 2>&1 || die "see $dir/format.log"
    fi
    : >"$dir/server.log"
    setsid nohup java "${jvm[@]}" "-Xmx$heap" "-Xms$heap" -Dlog.file="$dir/server.log" \
        -Dlog4j2.configurationFile="$tree/log4j2.properties" -cp "$tree/*" kafka.Kafka "$dir/server.properties" \
        >"$dir/out.log" 2>&1 </dev/null &
    echo $! >"$dir/pid"
}
ready() {
    for _ in $(seq 900); do
        if grep -qs 'Kafka Server started' "$run/n$1/server.log"; then return; fi
        alive "$1" || { tail -n 20 "$run/n$1/out.log" "$run/n$1/server.log" >&2; die "node $1 ended"; }
        sleep 0.1
    done
    die "node $1 is not ready after 90 s: $run/n$1/server.log"
}
halt() { # node, signal; ends when the process has ended
    alive "$1" || return 0
    kill "-$2" "$(cat "$run/n$1/pid")"
    for _ in $(seq 150); do alive "$1" || return 0; sleep 0.1; done
    kill -9 "$(cat "$run/n$1/pid")"
}
url() { local n u=(); for n in $(seq "$nodes"); do u+=("127.0.0.1:$((port + n - 1))"); done; (IFS=,; echo "${u[*]}"); }

case ${1:-} in
up)
    mkdir -p "$base"; exec 9>"$base/.kafka-lock"; flock 9 # one at a time; the server must not inherit the lock: 9>&-
    fetch; archive 9>&-; mkdir -p "$run"; certificates
    for i in $(seq "$nodes"); do start "$i" 9>&-; done
    for i in $(seq "$nodes"); do ready "$i"; done
    url ;;
down) for i in 1 2 3; do halt "$i" TERM & done; wait ;;
wipe) # its data goes too, so nothing is worth a farewell between nodes
    for i in 1 2 3; do halt "$i" KILL & done; wait
    rm -rf "$run" ;;
kill) halt "$2" KILL ;;
stop) halt "$2" TERM ;;
start) start "$2"; ready "$2" ;;
pid) cat "$run/n${2:-1}/pid" ;;
url) url ;;
ca) echo "$run/tls/ca.pem" ;;
tool) shift; fetch; tool "$@" ;;
*) sed -n 2,11p "$0"; exit 2 ;;
esac
