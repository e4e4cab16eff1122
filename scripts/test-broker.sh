#!/usr/bin/env bash
# Runs a private RabbitMQ in the foreground, on a port of 127.0.0.1, with its files in a folder; for tests only.
#
#   usage: test-broker.sh FOLDER PORT
#
# The user is `guest` with the password `guest`. It ends with this script, and this script with its standard input: a
# test that is killed leaves nothing. Exit code 3 when RabbitMQ (package rabbitmq-server) is not installed. The
# distribution's own broker and its data are not touched.
set -euo pipefail
[ $# = 2 ] || { sed -n '2,4s/^# \{0,1\}//p' "$0" >&2; exit 2; }
mkdir -p "$1"
folder=$(cd "$1" && pwd)
port=$2
server=$(find /usr/lib/rabbitmq/lib -path '*/sbin/rabbitmq-server' 2>/dev/null | sort -V | tail -1)
[ -n "$server" ] || { echo "no RabbitMQ (package rabbitmq-server)" >&2; exit 3; }

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
epmd_port=$(free_port)
export HOME=$folder ERL_EPMD_ADDRESS=127.0.0.1 ERL_EPMD_PORT=$epmd_port
export RABBITMQ_NODENAME=test@localhost RABBITMQ_NODE_IP_ADDRESS=127.0.0.1 RABBITMQ_NODE_PORT=$port
RABBITMQ_DIST_PORT=$(free_port)
export RABBITMQ_DIST_PORT
export RABBITMQ_MNESIA_BASE=$folder/data RABBITMQ_LOG_BASE=$folder/log RABBITMQ_CONFIG_FILE=$folder/rabbitmq
export RABBITMQ_CONF_ENV_FILE=$folder/env RABBITMQ_ENABLED_PLUGINS_FILE=$folder/plugins RABBITMQ_GENERATED_CONFIG_DIR=$folder/config
export RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS="-kernel inet_dist_use_interface {127,0,0,1} +S 1:1 +sbwt none"
: > "$folder/env"
echo '[].' > "$folder/plugins"
printf 'listeners.tcp.local = 127.0.0.1:%s\nvm_memory_high_watermark.absolute = 1GB\ndisk_free_limit.absolute = 50MB\n' \
    "$port" > "$folder/rabbitmq.conf"

exec 3<&0
# Processes of their own group each, so that all of them can be ended.
set -m
epmd -port "$epmd_port" -address 127.0.0.1 < /dev/null > /dev/null 2>&1 &
names=$!
"$server" < /dev/null > "$folder/out" 2>&1 &
broker=$!
set +m
# shellcheck disable=SC2317 # called by the trap
finish() {
    trap - EXIT INT TERM
    kill -KILL -- "-$broker" "-$names" 2>/dev/null || true
    wait 2>/dev/null || true
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
# The end of the input, or of the broker.
(cat <&3 > /dev/null) &
wait -n "$!" "$broker" || true
