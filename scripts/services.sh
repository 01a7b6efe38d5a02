#!/usr/bin/env bash
# Finds what the tests need and starts what does not answer. Prints one line for each and leaves what it found in .cache/services.env.
#
#   scripts/services.sh         find or start
#   scripts/services.sh stop    stop what this script started, and nothing else
#
# PostgreSQL   a server we may create databases on: MUSTER_TEST_POSTGRES, else 127.0.0.1:5432, else Docker Compose, else Debian's package
#              with a private cluster of our own (the system's clusters are never touched); and its programs, for the tests that kill one
# Mosquitto    only the program: each test starts its own broker on a free port
# RabbitMQ     one that speaks AMQP 0-9-1 and 1.0 and has the management API: MUSTER_TEST_AMQP_URL, else guest at 127.0.0.1:5672, else Docker
#              Compose, else a node of our own from Debian's package; and its programs, for the tests that stop one
# Azurite      installed with Node's package manager; each test that wants one starts its own with scripts/azurite.sh
# Python       a virtual environment with the stranger's clients (scripts/requirements.txt)
# rhea         the stranger that speaks AMQP 1.0, for Node
# unzip        judges bundles without our code
# journalctl   the agent reads this machine's own journal
#
# Works as root in a container without an init system, and as a user with sudo. Safe to run again: what answers is left alone, but for
# plugins that a RabbitMQ on this machine lacks: as root, they are enabled, and it says so.
#   MUSTER_TEST_PGPORT                where to look for PostgreSQL first (5432)
#   MUSTER_TEST_AMQP_PORT             where to look for RabbitMQ first (5672)
#   MUSTER_TEST_AMQP_URL              the RabbitMQ to use, amqp://USER:PASSWORD@HOST:PORT/%2f
#   MUSTER_TEST_AMQP_MANAGEMENT_URL   its management API (http://USER:PASSWORD@HOST:15672)
#   MUSTER_SERVICES_DIR               where a server started here keeps its data (a private directory below TMPDIR)
#   MUSTER_NO_DOCKER=1                do not use a container engine even if one runs
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly cache=$PWD/.cache
readonly env_file=$cache/services.env
readonly pg_port=${MUSTER_TEST_PGPORT:-5432}
readonly amqp_port=${MUSTER_TEST_AMQP_PORT:-5672}
readonly rabbitmq_home=$cache/rabbitmq
readonly rhea_version=3.0.5
readonly services_dir=${MUSTER_SERVICES_DIR:-${TMPDIR:-/tmp}/muster-services.$(id -u)}
readonly node_major_wanted=20
readonly start_deadline_seconds=60
# PostgreSQL's and Mosquitto's programs are often outside PATH.
PATH=$PATH:/usr/sbin:/usr/local/sbin
export PGCONNECT_TIMEOUT=3

say() { printf '%-11s %s\n' "$1:" "$2"; }
die() {
    printf '%s: %s\n' "$1" "$2" >&2
    exit 1
}
have() { command -v "$1" >/dev/null 2>&1; }

# --- Debian packages -------------------------------------------------------------------------------------------------

apt_updated=
apt_install() {
    local what=$1 sudo=()
    shift
    have apt-get || die "$what" "is missing and this machine has no apt-get; install $* by hand and run this again"
    if [[ $(id -u) -ne 0 ]]; then
        sudo -n true 2>/dev/null || die "$what" "is missing and installing needs root; run: sudo apt-get install $*"
        sudo=(sudo -n)
    fi
    if [[ -z $apt_updated ]]; then
        "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get update -qq >/dev/null || die "$what" "apt-get update failed: is the network there?"
        apt_updated=yes
    fi
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >"$cache/apt.log" 2>&1 \
        || die "$what" "apt-get install $* failed; its output is in $cache/apt.log"
}

docker_runs() { [[ -z ${MUSTER_NO_DOCKER:-} ]] && have docker && docker info >/dev/null 2>&1 && docker compose version >/dev/null 2>&1; }

# --- PostgreSQL ------------------------------------------------------------------------------------------------------

# True when the server at this URL lets us in and lets us create databases.
pg_usable() {
    have psql && [[ $(psql "$1" -XAtc 'select rolcreatedb or rolsuper from pg_roles where rolname = current_user' 2>/dev/null) == t ]]
}

port_taken() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

free_port() {
    local port
    for port in $(seq "$1" $(($1 + 50))); do
        if ! port_taken "$port"; then
            echo "$port"
            return
        fi
    done
    die services "no free port from $1 to $(($1 + 50)); stop what you do not need, or name servers of yours (MUSTER_TEST_POSTGRES, MUSTER_TEST_AMQP_URL)"
}

# Where initdb and its friends are: in PATH, or the newest of Debian's versioned directories.
pg_bin() {
    if have initdb; then
        dirname "$(readlink -f "$(command -v initdb)")" # the real directory: a link may stand alone in its
        return
    fi
    local newest
    newest=$(find /usr/lib/postgresql -mindepth 3 -maxdepth 3 -name initdb 2>/dev/null | sort -V | tail -1)
    [[ -n $newest ]] && dirname "$newest"
}

# PostgreSQL refuses to run as root; then it runs as the user its package made.
pg_as_server_user() {
    if [[ $(id -u) -eq 0 ]]; then
        (cd / && exec setpriv --reuid=postgres --regid=postgres --init-groups --reset-env -- "$@")
    else
        "$@"
    fi
}

private_dir() {
    if [[ -e $services_dir && ! -O $services_dir ]]; then
        die postgres "$services_dir belongs to somebody else; set MUSTER_SERVICES_DIR"
    fi
    mkdir -p "$services_dir"
    chmod 711 "$services_dir" # the server user has to pass through
}

pg_start_private() {
    local bin port data
    if ! { bin=$(pg_bin) && have psql; }; then
        say postgres "not installed; installing Debian's package"
        # The package would start a cluster of its own; ours is private and the system's stays as it is.
        apt_install postgres postgresql postgresql-client
        bin=$(pg_bin) || die postgres "the package is installed and has no initdb; set MUSTER_TEST_POSTGRES to a server of yours"
    fi
    private_dir
    data=$services_dir/postgres-$pg_port
    if [[ ! -f $data/PG_VERSION ]]; then
        rm -rf "$data"
        mkdir -m 700 "$data"
        if [[ $(id -u) -eq 0 ]]; then chown postgres:postgres "$data"; fi
        pg_as_server_user "$bin/initdb" --pgdata="$data" --username=muster --auth=trust --encoding=UTF8 --locale=C.UTF-8 >"$cache/initdb.log" 2>&1 \
            || die postgres "initdb failed; its output is in $cache/initdb.log"
    fi
    if [[ -f $data/port ]] && pg_usable "postgres://muster@127.0.0.1:$(<"$data/port")/postgres"; then
        postgres_url=postgres://muster@127.0.0.1:$(<"$data/port")/postgres
        say postgres "answers at 127.0.0.1:$(<"$data/port") (started here before)"
        return
    fi
    port=$(free_port "$pg_port")
    # -l: the server's log stays with its data. fsync stays on: what the tests and the bench see is what a user sees.
    pg_as_server_user "$bin/pg_ctl" --pgdata="$data" --log="$data/server.log" --wait --timeout="$start_deadline_seconds" --silent \
        --options="-p $port -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c max_connections=300" start >/dev/null 2>&1 \
        || die postgres "did not start on port $port; its log is $data/server.log"
    if [[ $(id -u) -eq 0 ]]; then
        pg_as_server_user sh -c "echo $port >'$data/port'"
    else
        echo "$port" >"$data/port"
    fi
    postgres_url=postgres://muster@127.0.0.1:$port/postgres
    pg_usable "$postgres_url" || die postgres "started on port $port and does not let us create databases; its log is $data/server.log"
    say postgres "started at 127.0.0.1:$port ($data)"
}

find_postgres() {
    local url user
    if [[ -n ${MUSTER_TEST_POSTGRES:-} ]]; then
        have psql || apt_install postgres postgresql-client
        pg_usable "$MUSTER_TEST_POSTGRES" || die postgres "MUSTER_TEST_POSTGRES is set and no server that lets us create databases answers there"
        postgres_url=$MUSTER_TEST_POSTGRES
        say postgres "answers at MUSTER_TEST_POSTGRES"
        return
    fi
    for user in "$(id -un)" postgres muster:muster; do
        url=postgres://$user@127.0.0.1:$pg_port/postgres
        if pg_usable "$url"; then
            postgres_url=$url
            say postgres "answers at 127.0.0.1:$pg_port (as ${user%%:*})"
            return
        fi
    done
    if docker_runs; then
        docker compose up --detach --wait postgres >"$cache/compose.log" 2>&1 || die postgres "docker compose could not start it; its output is in $cache/compose.log"
        postgres_url=postgres://muster:${MUSTER_POSTGRES_PASSWORD:-muster}@127.0.0.1:5432/postgres
        say postgres "started by Docker Compose at 127.0.0.1:5432; make down stops it"
        return
    fi
    pg_start_private
}

# The tests that kill a database start one of their own, wherever the common one runs.
find_postgres_programs() {
    if [[ -z $(pg_bin || true) ]]; then
        say postgres "its programs are not installed; installing Debian's package"
        apt_install postgres postgresql
    fi
    say postgres "programs in $(pg_bin)"
}

# --- RabbitMQ --------------------------------------------------------------------------------------------------------

# What the broker at $1 with the management API at $2 lacks, in words; nothing when it lacks nothing. Fails when nothing answers, or nobody lets
# us in.
amqp_lacks() {
    "$python_path" - "$1" "$2" 2>"$cache/rabbitmq.probe" <<'PYTHON'
import base64, socket, sys, urllib.parse, urllib.request

import pika

amqp, management = sys.argv[1:]
connection = pika.BlockingConnection(pika.URLParameters(amqp + "?connection_attempts=1&socket_timeout=3&blocked_connection_timeout=3"))
connection.close()
parts = urllib.parse.urlsplit(amqp)
lacks = []
# A broker that speaks 1.0 answers its header with the same; another one answers with the header of what it speaks.
with socket.create_connection((parts.hostname, parts.port or 5672), 3) as speaker:
    speaker.sendall(b"AMQP\x03\x01\x00\x00")
    if speaker.recv(8) != b"AMQP\x03\x01\x00\x00":
        lacks.append("rabbitmq_amqp1_0")
parts = urllib.parse.urlsplit(management)
request = urllib.request.Request(f"{parts.scheme}://{parts.hostname}:{parts.port or 15672}/api/overview")
login = f"{urllib.parse.unquote(parts.username or 'guest')}:{urllib.parse.unquote(parts.password or 'guest')}"
request.add_header("Authorization", "Basic " + base64.b64encode(login.encode()).decode())
try:
    urllib.request.urlopen(request, timeout=5).read()
except OSError as error:
    print(error, file=sys.stderr)
    lacks.append("rabbitmq_management")
print(" ".join(lacks))
PYTHON
}

# The management API that goes with amqp://USER:PASSWORD@HOST:PORT/…
management_of() {
    local login=${1#amqp://}
    login=${login%%/*}
    echo "http://${login%:*}:15672"
}

# RabbitMQ's own scripts. Debian's in /usr/sbin are wrappers that only root and rabbitmq may call.
rabbitmq_bin() {
    local bin
    for bin in "${MUSTER_TEST_RABBITMQ_BIN:-}" /usr/lib/rabbitmq/bin "$(dirname "$(readlink -f "$(command -v rabbitmq-server || echo /nowhere)")")"; do
        if [[ -x $bin/rabbitmq-server && -x $bin/rabbitmq-plugins ]]; then
            echo "$bin"
            return
        fi
    done
    return 1
}

# The tests that stop a broker for minutes start one of their own, wherever the common one runs.
find_rabbitmq_programs() {
    if ! rabbitmq_bin >/dev/null || ! have epmd; then
        say rabbitmq "its programs are not installed; installing Debian's package"
        # The package would start a node that listens to everybody; ours is private. The file says so to whoever would start it.
        local policy=/usr/sbin/policy-rc.d sudo=() ours=
        [[ $(id -u) -eq 0 ]] || sudo=(sudo -n)
        if [[ ! -e $policy ]] && printf '#!/bin/sh\nexit 101\n' | "${sudo[@]}" tee "$policy" >/dev/null 2>&1; then
            ours=yes
            "${sudo[@]}" chmod 755 "$policy"
        fi
        # In a shell of its own: it ends this script when it fails, and the file must not stay.
        local installed=yes
        (apt_install rabbitmq rabbitmq-server) || installed=
        if [[ -n $ours ]]; then "${sudo[@]}" rm -f "$policy"; fi
        [[ -n $installed ]] || exit 1
    fi
    rabbitmq_path=$(rabbitmq_bin) || die rabbitmq "the package is installed and has no rabbitmq-server where we look; set MUSTER_TEST_RABBITMQ_BIN"
    have epmd || die rabbitmq "epmd, which comes with Erlang, is not in PATH"
    say rabbitmq "programs in $rabbitmq_path"
}

# Waits until the broker at amqp_url answers and lacks nothing.
rabbitmq_ready() {
    local deadline=$((SECONDS + start_deadline_seconds)) lacks
    until lacks=$(amqp_lacks "$amqp_url" "$management_url") && [[ -z $lacks ]]; do
        [[ $SECONDS -lt $deadline ]] || return 1
        sleep 0.5
    done
}

rabbitmq_start_private() {
    local port management distribution epmd lacks
    if [[ -f $rabbitmq_home/urls ]]; then
        { read -r amqp_url && read -r management_url; } <"$rabbitmq_home/urls" || true
        if lacks=$(amqp_lacks "$amqp_url" "$management_url") && [[ -z $lacks ]]; then
            local address=${amqp_url##*@}
            say rabbitmq "answers at ${address%%/*} (started here before)"
            return
        fi
        rabbitmq_stop_private
    fi
    # Ours need not be where the system's would be; 5672 stays free for it.
    port=$(free_port $((amqp_port + 20000)))
    management=$(free_port $((port + 100)))
    distribution=$(free_port $((port + 200)))
    epmd=$(free_port $((port + 300)))
    # The directory is made anew: nothing that an earlier run left is worth keeping, and another port is another node.
    rm -rf "$rabbitmq_home"
    mkdir -p "$rabbitmq_home"
    MUSTER_TEST_RABBITMQ_BIN=$rabbitmq_path setsid scripts/rabbitmq.sh "$rabbitmq_home" "$port" "$management" "$distribution" "$epmd" \
        >"$rabbitmq_home/node.log" 2>&1 </dev/null &
    echo $! >"$rabbitmq_home/pid"
    amqp_url=amqp://guest:guest@127.0.0.1:$port/%2f
    management_url=http://guest:guest@127.0.0.1:$management
    printf '%s\n' "$amqp_url" "$management_url" >"$rabbitmq_home/urls"
    rabbitmq_ready || die rabbitmq "did not start on port $port; its log is $rabbitmq_home/node.log"
    say rabbitmq "started at 127.0.0.1:$port ($rabbitmq_home)"
}

# True when a node of ours was running. The process is asked whether it is still that node: ids are given out again.
rabbitmq_stop_private() {
    local pid
    [[ -f $rabbitmq_home/pid ]] && pid=$(<"$rabbitmq_home/pid") || return 1
    grep -qsF "$rabbitmq_home" "/proc/$pid/environ" || return 1
    kill "$pid"
    local deadline=$((SECONDS + start_deadline_seconds))
    while grep -qsF "$rabbitmq_home" "/proc/$pid/environ"; do
        if [[ $SECONDS -ge $deadline ]]; then kill -KILL "$pid"; fi
        sleep 0.2
    done
}

find_rabbitmq() {
    local lacks
    find_rabbitmq_programs
    if [[ -n ${MUSTER_TEST_AMQP_URL:-} ]]; then
        amqp_url=$MUSTER_TEST_AMQP_URL
        management_url=${MUSTER_TEST_AMQP_MANAGEMENT_URL:-$(management_of "$amqp_url")}
        lacks=$(amqp_lacks "$amqp_url" "$management_url") \
            || die rabbitmq "MUSTER_TEST_AMQP_URL is set and nothing that lets us in answers there; see $cache/rabbitmq.probe"
        [[ -z $lacks ]] || die rabbitmq "the one at MUSTER_TEST_AMQP_URL lacks $lacks; enable it there (rabbitmq-plugins enable $lacks), or say where its \
management API is (MUSTER_TEST_AMQP_MANAGEMENT_URL)"
        say rabbitmq "answers at MUSTER_TEST_AMQP_URL"
        return
    fi
    amqp_url=amqp://guest:guest@127.0.0.1:$amqp_port/%2f
    management_url=${MUSTER_TEST_AMQP_MANAGEMENT_URL:-$(management_of "$amqp_url")}
    if lacks=$(amqp_lacks "$amqp_url" "$management_url"); then
        if [[ -n $lacks && $(id -u) -eq 0 && -x /usr/sbin/rabbitmq-plugins ]]; then
            say rabbitmq "the one at 127.0.0.1:$amqp_port lacks $lacks; enabling that"
            # shellcheck disable=SC2086
            if /usr/sbin/rabbitmq-plugins enable $lacks >"$cache/rabbitmq.plugins" 2>&1 && rabbitmq_ready; then lacks=; fi
        fi
        if [[ -z $lacks ]]; then
            say rabbitmq "answers at 127.0.0.1:$amqp_port"
            return
        fi
        say rabbitmq "the one at 127.0.0.1:$amqp_port lacks $lacks (to have it: rabbitmq-plugins enable $lacks); starting our own"
    elif docker_runs; then
        docker compose up --detach --wait rabbitmq >"$cache/compose.log" 2>&1 || die rabbitmq "docker compose could not start it; its output is in $cache/compose.log"
        amqp_url=amqp://muster:${MUSTER_RABBITMQ_PASSWORD:-muster}@127.0.0.1:5672/%2f
        management_url=$(management_of "$amqp_url")
        rabbitmq_ready || die rabbitmq "Docker Compose started it, and it does not let us in; see $cache/rabbitmq.probe"
        say rabbitmq "started by Docker Compose at 127.0.0.1:5672; make down stops it"
        return
    fi
    rabbitmq_start_private
}

# --- the others ------------------------------------------------------------------------------------------------------

find_mosquitto() {
    if ! { have mosquitto && have mosquitto_passwd; }; then
        say mosquitto "not installed; installing Debian's package"
        apt_install mosquitto mosquitto
    fi
    mosquitto_path=$(command -v mosquitto)
    # `mosquitto -h` prints its version and ends with an error code: that is its way.
    say mosquitto "program $mosquitto_path, $( (mosquitto -h || true) | sed -n '1s/^mosquitto //p')"
}

find_node() {
    if ! { have node && have npm; }; then
        say node "not installed; installing Debian's package"
        apt_install node nodejs npm
    fi
    local major
    major=$(node --version | sed 's/^v\([0-9]*\).*/\1/')
    if [[ $major -lt $node_major_wanted ]]; then
        say node "$(node --version): Azurite is tried on it, but only Node $node_major_wanted and newer is known to work"
    else
        say node "$(node --version), for Azurite"
    fi
    # Started once with nobody at its input, so that it installs itself now, and no test has to wait for a registry.
    scripts/azurite.sh "$(free_port 20100)" --with-stdin </dev/null >"$cache/azurite.log" 2>&1 || die azurite "could not be installed; see $cache/azurite.log"
    # The stranger that speaks AMQP 1.0: once a version.
    if ! grep -qs "\"version\": \"$rhea_version\"" "$cache/rhea/node_modules/rhea/package.json"; then
        mkdir -p "$cache/rhea"
        npm install --prefix "$cache/rhea" --no-audit --no-fund --no-save --loglevel=error "rhea@$rhea_version" >"$cache/rhea.log" 2>&1 \
            || die rhea "npm could not install rhea@$rhea_version; see $cache/rhea.log"
    fi
    say rhea "version $rhea_version, for AMQP 1.0"
    say azurite "$(sed -n 's/^ *"version": "\(.*\)".*/version \1/p' "$cache/azurite/node_modules/azurite/package.json" | head -1), started by the tests themselves"
}

find_python() {
    have python3 || apt_install python python3 python3-venv
    local venv=$cache/venv stamp=$cache/venv/requirements.txt
    if ! cmp -s scripts/requirements.txt "$stamp" || ! "$venv/bin/python" -c 'import azure.storage.blob, paho.mqtt, pika' 2>/dev/null; then
        rm -rf "$venv"
        if ! python3 -m venv "$venv" >"$cache/venv.log" 2>&1; then
            apt_install python python3-venv
            rm -rf "$venv"
            python3 -m venv "$venv" >"$cache/venv.log" 2>&1 || die python "no virtual environment could be made; see $cache/venv.log"
        fi
        "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --requirement scripts/requirements.txt >>"$cache/venv.log" 2>&1 \
            || die python "pip could not install scripts/requirements.txt; see $cache/venv.log"
        cp scripts/requirements.txt "$stamp"
    fi
    python_path=$venv/bin/python
    say python "$("$python_path" --version 2>&1) in $venv"
}

find_unzip() {
    have unzip || apt_install unzip unzip
    say unzip "$(command -v unzip)"
}

find_journalctl() {
    have journalctl || apt_install journalctl systemd
    say journalctl "$(command -v journalctl)"
}

start() {
    mkdir -p "$cache"
    find_postgres
    find_postgres_programs
    find_mosquitto
    find_node
    find_python
    find_rabbitmq
    find_unzip
    find_journalctl
    # Written beside and moved: a test run that reads it never sees half of it.
    {
        echo "# Written by scripts/services.sh; read by make test and make bench."
        printf 'export MUSTER_TEST_POSTGRES=%q\n' "$postgres_url"
        printf 'export MUSTER_TEST_POSTGRES_BIN=%q\n' "$(pg_bin || true)"
        printf 'export MUSTER_TEST_MOSQUITTO=%q\n' "$mosquitto_path"
        printf 'export MUSTER_TEST_PYTHON=%q\n' "$python_path"
        printf 'export MUSTER_TEST_AMQP_URL=%q\n' "$amqp_url"
        printf 'export MUSTER_TEST_AMQP_MANAGEMENT_URL=%q\n' "$management_url"
        printf 'export MUSTER_TEST_RABBITMQ_BIN=%q\n' "$rabbitmq_path"
        printf 'export MUSTER_TEST_RHEA=%q\n' "$cache/rhea/node_modules/rhea"
    } >"$env_file.new"
    mv "$env_file.new" "$env_file"
}

stop() {
    local data bin found=
    bin=$(pg_bin) || true
    for data in "$services_dir"/postgres-*; do
        [[ -f $data/postmaster.pid && -n $bin ]] || continue
        found=yes
        if pg_as_server_user "$bin/pg_ctl" --pgdata="$data" --mode=fast --wait --silent stop >/dev/null 2>&1; then
            say postgres "stopped ($data)"
        else
            say postgres "was not running ($data)"
        fi
    done
    if [[ -f $rabbitmq_home/pid ]]; then
        found=yes
        if rabbitmq_stop_private; then say rabbitmq "stopped ($rabbitmq_home)"; else say rabbitmq "was not running ($rabbitmq_home)"; fi
        rm -rf "$rabbitmq_home"
    fi
    if [[ -z $found ]]; then say services "none was started here"; fi
    rm -f "$env_file"
}

case ${1:-start} in
start) start ;;
stop) stop ;;
*) die services "unknown argument ${1@Q}; use: scripts/services.sh [stop]" ;;
esac
