#!/usr/bin/env bash
# Finds what the tests need and starts what does not answer. Prints one line for each and leaves what it found in .cache/services.env.
#
#   scripts/services.sh         find or start
#   scripts/services.sh stop    stop what this script started, and nothing else
#
# PostgreSQL   a server we may create databases on: MUSTER_TEST_POSTGRES, else 127.0.0.1:5432, else Docker Compose, else Debian's package
#              with a private cluster of our own (the system's clusters are never touched); and its programs, for the tests that kill one
# Mosquitto    only the program: each test starts its own broker on a free port
# Azurite      installed with Node's package manager; each test that wants one starts its own with scripts/azurite.sh
# Python       a virtual environment with the stranger's clients (scripts/requirements.txt)
# unzip        judges bundles without our code
# journalctl   the agent reads this machine's own journal
#
# RabbitMQ is not among them: no test uses it yet. It joins with the alert intake.
#
# Works as root in a container without an init system, and as a user with sudo. Safe to run again: what answers is left alone.
#   MUSTER_TEST_PGPORT    where to look first (5432)
#   MUSTER_SERVICES_DIR   where a server started here keeps its data (a private directory below TMPDIR)
#   MUSTER_NO_DOCKER=1    do not use a container engine even if one runs
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly cache=$PWD/.cache
readonly env_file=$cache/services.env
readonly pg_port=${MUSTER_TEST_PGPORT:-5432}
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
    die postgres "no free port from $1 to $(($1 + 50)); set MUSTER_TEST_POSTGRES to a server of yours"
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
    say azurite "$(sed -n 's/^ *"version": "\(.*\)".*/version \1/p' "$cache/azurite/node_modules/azurite/package.json" | head -1), started by the tests themselves"
}

find_python() {
    have python3 || apt_install python python3 python3-venv
    local venv=$cache/venv stamp=$cache/venv/requirements.txt
    if ! cmp -s scripts/requirements.txt "$stamp" || ! "$venv/bin/python" -c 'import azure.storage.blob, paho.mqtt' 2>/dev/null; then
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
    find_unzip
    find_journalctl
    # Written beside and moved: a test run that reads it never sees half of it.
    {
        echo "# Written by scripts/services.sh; read by make test and make bench."
        printf 'export MUSTER_TEST_POSTGRES=%q\n' "$postgres_url"
        printf 'export MUSTER_TEST_POSTGRES_BIN=%q\n' "$(pg_bin || true)"
        printf 'export MUSTER_TEST_MOSQUITTO=%q\n' "$mosquitto_path"
        printf 'export MUSTER_TEST_PYTHON=%q\n' "$python_path"
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
    if [[ -z $found ]]; then say services "none was started here"; fi
    rm -f "$env_file"
}

case ${1:-start} in
start) start ;;
stop) stop ;;
*) die services "unknown argument ${1@Q}; use: scripts/services.sh [stop]" ;;
esac
