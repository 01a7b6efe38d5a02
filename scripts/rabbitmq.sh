#!/usr/bin/env bash
# Run a RabbitMQ of our own on the loopback until interrupted: own node name, own cookie, own ports, own directory, own epmd.
#
#   scripts/rabbitmq.sh DIRECTORY PORT MANAGEMENT_PORT DISTRIBUTION_PORT EPMD_PORT
#
# Everything it keeps is below DIRECTORY; started there again, it has its queues again. The user is guest with the password guest, whom RabbitMQ
# lets in from the loopback only. AMQP 1.0 and the management API are on.
#
# The process that this becomes is the node itself: SIGTERM stops it in order, `kill -9` is a crash. Its epmd ends with it, either way.
# Runs as any user: Debian's wrapper in /usr/sbin wants root or rabbitmq, what is behind it does not.
#   MUSTER_TEST_RABBITMQ_BIN   where RabbitMQ's own scripts are (Debian: /usr/lib/rabbitmq/bin)
set -euo pipefail

[[ $# -eq 5 ]] || { echo "rabbitmq.sh: use: scripts/rabbitmq.sh DIRECTORY PORT MANAGEMENT_PORT DISTRIBUTION_PORT EPMD_PORT" >&2; exit 1; }
mkdir -p "$1"
home=$(cd "$1" && pwd)
readonly home port=$2 management_port=$3 distribution_port=$4 epmd_port=$5
readonly bin=${MUSTER_TEST_RABBITMQ_BIN:-/usr/lib/rabbitmq/bin}

[[ -x $bin/rabbitmq-server ]] || { echo "rabbitmq.sh: there is no rabbitmq-server in $bin; scripts/services.sh installs it" >&2; exit 1; }
command -v epmd >/dev/null || { echo "rabbitmq.sh: epmd is not in PATH; it comes with Erlang (Debian: erlang-base)" >&2; exit 1; }

mkdir -p -m 700 "$home/data"
# From RabbitMQ 4 on, AMQP 1.0 needs no plugin, and a name that is not there would keep the node from starting.
plugins=rabbitmq_management
if compgen -G "$(readlink -f "$bin/rabbitmq-server" | sed 's#/sbin/.*##')/plugins/rabbitmq_amqp1_0-*" >/dev/null; then plugins+=,rabbitmq_amqp1_0; fi
echo "[$plugins]." >"$home/enabled_plugins"
: >"$home/rabbitmq-env.conf" # instead of the one in /etc/rabbitmq, which speaks of the system's node
cat >"$home/rabbitmq.conf" <<CONF
listeners.tcp.1 = 127.0.0.1:$port
management.tcp.ip = 127.0.0.1
management.tcp.port = $management_port
# What the management API says of a queue is never older than this.
collect_statistics_interval = 1000
disk_free_limit.absolute = 100MB
vm_memory_high_watermark.absolute = 1500MB
CONF

# The cookie lies in HOME. Of the surroundings only the path is kept: a variable for the system's node would be one for ours.
environment=(
    "PATH=$PATH" "HOME=$home" LANG=C.UTF-8
    "RABBITMQ_CONF_ENV_FILE=$home/rabbitmq-env.conf"
    "RABBITMQ_CONFIG_FILE=$home/rabbitmq.conf"
    "RABBITMQ_ENABLED_PLUGINS_FILE=$home/enabled_plugins"
    "RABBITMQ_NODENAME=muster-$port@localhost"
    "RABBITMQ_MNESIA_BASE=$home/data"
    "RABBITMQ_LOG_BASE=$home"
    RABBITMQ_LOGS=-
    RUNNING_UNDER_SYSTEMD=yes # RabbitMQ's script becomes the node then, rather than start it and wait
    "RABBITMQ_DIST_PORT=$distribution_port"
    "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=-kernel inet_dist_use_interface {127,0,0,1}"
    "ERL_EPMD_PORT=$epmd_port" ERL_EPMD_ADDRESS=127.0.0.1
)
# epmd is a child of this process, which becomes the node; when the node is gone, the kernel ends it.
env -i "${environment[@]}" setpriv --pdeathsig KILL epmd >/dev/null 2>&1 </dev/null &
cd "$home"
exec env -i "${environment[@]}" "$bin/rabbitmq-server"
