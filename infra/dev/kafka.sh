#!/usr/bin/env bash
# A real Apache Kafka broker without Docker, for tests and development.
#
#   infra/dev/kafka.sh                 fetch what is missing, print where its jars are
#   infra/dev/kafka.sh --check         print the same, or exit 1 when something is not fetched yet
#   infra/dev/kafka.sh --serve [DIR]   fetch what is missing, then serve on 127.0.0.1:${KAFKA_PORT:-9092}, without a
#                                      password, records kept in DIR (without it: in the cache); the port after it is
#                                      taken too, for the broker's own controller
#
# Needs: Java 17 or newer, and Maven where something is missing (infra/dev/kafka/pom.xml: 93 jars, 54 MB, under a
# minute). Everything is kept in ${XDG_CACHE_HOME:-~/.cache}/callstream/kafka; delete it to start over.
# Limits are Kafka's defaults: a record of more than 1 MB is refused. The broker takes 300 MB of memory, and more as it
# is used: at most 512 MB of heap.
set -euo pipefail

HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/kafka"
readonly HERE
VERSION="$(sed -n 's|.*<kafka.version>\(.*\)</kafka.version>.*|\1|p' "$HERE/pom.xml")"
readonly VERSION
readonly CACHE="${XDG_CACHE_HOME:-$HOME/.cache}/callstream/kafka"
readonly LIBS="$CACHE/$VERSION/libs"

say() { printf '%s\n' "$*" >&2; }

location() { printf 'KAFKA_LIBS=%s\n' "$LIBS"; }

# The jars are put in place at once, beside the list that they were fetched for.
is_complete() { cmp --quiet "$HERE/pom.xml" "$LIBS/pom.xml"; }

need() {
    command -v "$1" >/dev/null && return
    say "kafka: there is no $1 here; it needs $2 (Debian: apt-get install $3)"
    exit 1
}

fetch_jars() {
    is_complete && return
    need mvn "Maven to fetch its jars" maven
    say "kafka: fetching Apache Kafka $VERSION with Maven (54 MB, under a minute)"
    rm -rf "$LIBS" "$LIBS.part"
    mkdir -p "$LIBS.part"
    nice mvn --quiet --batch-mode --file "$HERE/pom.xml" dependency:copy-dependencies \
        -DoutputDirectory="$LIBS.part" -DincludeScope=runtime >&2
    cp "$HERE/pom.xml" "$LIBS.part/pom.xml"
    mv "$LIBS.part" "$LIBS"
}

write_properties() {
    local port="${KAFKA_PORT:-9092}" folder="$1"
    cat >"$folder/server.properties" <<PROPERTIES
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$((port + 1))
listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$((port + 1))
advertised.listeners=PLAINTEXT://127.0.0.1:$port
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs=$folder/records
offsets.topic.replication.factor=1
offsets.topic.num.partitions=8
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
auto.create.topics.enable=false
log.cleaner.dedupe.buffer.size=16777216
PROPERTIES
}

serve() {
    mkdir -p "$1"
    local folder
    folder="$(cd "$1" && pwd)"
    write_properties "$folder"
    # A folder that is formatted already is left as it is.
    java -XX:TieredStopAtLevel=1 -cp "$LIBS/*" kafka.tools.StorageTool format --ignore-formatted \
        --cluster-id "$(java -XX:TieredStopAtLevel=1 -cp "$LIBS/*" kafka.tools.StorageTool random-uuid)" \
        --config "$folder/server.properties" >&2
    exec java -Xmx512m -Dlog4j2.configurationFile="$HERE/log4j2.properties" -cp "$LIBS/*" \
        kafka.Kafka "$folder/server.properties"
}

case "${1:-}" in
"" | --serve)
    need java "Java 17 or newer" openjdk-17-jre-headless
    mkdir -p "$CACHE"
    exec 9>"$CACHE/lock"
    flock 9
    fetch_jars
    exec 9>&-
    location
    if [[ "${1:-}" == --serve ]]; then serve "${2:-$CACHE/development}"; fi
    ;;
--check)
    need java "Java 17 or newer" openjdk-17-jre-headless
    is_complete || exit 1
    location
    ;;
*)
    say "usage: $0 [--check | --serve [DIR]]"
    exit 2
    ;;
esac
