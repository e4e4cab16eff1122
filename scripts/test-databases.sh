#!/usr/bin/env bash
# Runs a command beside a private PostgreSQL and a private MariaDB, and removes both afterwards.
#
#   usage: test-databases.sh COMMAND [ARGUMENT ...]
#   for example: scripts/test-databases.sh cargo test -p kilonova-db
#
# The command finds them in KILONOVA_TEST_POSTGRES and KILONOVA_TEST_MYSQL (URLs with user and password; the user may
# create databases). Both listen on free ports of 127.0.0.1, keep their files in a temporary folder, and never sync to
# the disk: they are for tests only. The distribution's own server and its data are not touched.
#
# Both offer TLS. KILONOVA_TEST_DATABASE_CERTIFICATES is a folder with the certificate of the authority that theirs come
# from (ca.pem), that of another one (other.pem), and a certificate and key for a client (client.pem, client.key). The
# user `certified` has the same password and is let in with such a certificate only.
#
# KILONOVA_TEST_DBS=sqlite runs the command without them.
set -euo pipefail
export LC_ALL=C PATH=$PATH:/usr/sbin:/sbin
[ $# -gt 0 ] || { sed -n '2,5s/^# \{0,1\}//p' "$0"; exit 2; }

if [ "${KILONOVA_TEST_DBS:-all}" = sqlite ]; then
    echo "databases: KILONOVA_TEST_DBS=sqlite, so the PostgreSQL and MariaDB tests are skipped"
    exec "$@"
fi

say() { echo "databases: $*"; }
die() { echo "databases: $*" >&2; exit 1; }
base=${TMPDIR:-/tmp}/kilonova-test-databases

# A run that was killed leaves its servers: end those whose owner is gone.
stop_servers() { # stop_servers FOLDER
    local file pid command tries
    for file in "$1"/*.pid; do
        pid=$(head -n 1 "$file" 2>/dev/null) || continue
        [[ $pid =~ ^[0-9]+$ ]] || continue
        # The number may have gone to another process since.
        command=$(tr '\0' ' ' < "/proc/$pid/cmdline" 2>/dev/null) || continue
        [[ $command == *"$1"* ]] || continue
        kill -INT "$pid" 2>/dev/null || true # PostgreSQL: fast shutdown
        case $file in */mariadb.pid) kill -TERM "$pid" 2>/dev/null || true ;; esac
        for tries in $(seq 100); do
            kill -0 "$pid" 2>/dev/null || break
            [ "$tries" != 60 ] || kill -KILL "$pid" 2>/dev/null || true
            sleep 0.1
        done
    done
    rm -rf "$1"
}
for old in "$base".*; do
    [ -d "$old" ] || continue
    owner=$(cat "$old/owner" 2>/dev/null || echo 0)
    if [ "$owner" != 0 ] && ! kill -0 "$owner" 2>/dev/null; then stop_servers "$old"; fi
done

bin=$(find /usr/lib/postgresql -name initdb -path '*/bin/*' 2>/dev/null | sort -V | tail -1)
[ -n "$bin" ] || die "no PostgreSQL (package postgresql); scripts/install-packages.sh test installs it"
bin=$(dirname "$bin")
command -v openssl >/dev/null || die "no openssl (package openssl); scripts/install-packages.sh test installs it"
command -v mariadbd >/dev/null || die "no MariaDB (package mariadb-server); scripts/install-packages.sh test installs it"

dir=$(mktemp -d "$base.XXXXXX")
chmod 711 "$dir"
echo $$ > "$dir/owner"
child=
# shellcheck disable=SC2317 # called by the trap
finish() {
    local code=$?
    trap - EXIT INT TERM
    if [ -n "$child" ]; then kill -TERM "$child" 2>/dev/null || true; fi
    stop_servers "$dir"
    exit "$code"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# PostgreSQL refuses to run as root; each server runs as its own user where this script is root.
as_postgres=() as_mysql=()
if [ "$(id -u)" = 0 ]; then
    as_postgres=(setpriv --reuid postgres --regid "$(id -g postgres)" --clear-groups -- env "HOME=$dir")
    as_mysql=(setpriv --reuid mysql --regid "$(id -g mysql)" --clear-groups -- env "HOME=$dir")
fi
own() { if [ "$(id -u)" = 0 ]; then chown "$1" "$2"; fi; }
free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
password=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
started=$(date +%s%N)

# An authority with a certificate for the servers and one for a client, and the certificate of another authority.
certificates=$dir/certificates
certificate() { # certificate FILE SUBJECT EXTENSION [OPTION ...]
    local file=$certificates/$1 subject=$2 extension=$3
    shift 3
    openssl req -x509 -config "$certificates/openssl.cnf" -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 \
        -subj "$subject" -addext "$extension" -keyout "$file.key" -out "$file.pem" "$@" > "$certificates/log" 2>&1 ||
        { cat "$certificates/log" >&2; die "a certificate could not be made"; }
}
mkdir "$certificates"
printf '[req]\ndistinguished_name=name\n[name]\n' > "$certificates/openssl.cnf"
by_ca=(-CA "$certificates/ca.pem" -CAkey "$certificates/ca.key")
certificate ca "/CN=Kilonova's test databases" basicConstraints=critical,CA:TRUE
certificate other "/CN=Another authority" basicConstraints=critical,CA:TRUE
certificate server /CN=databases subjectAltName=IP:127.0.0.1 "${by_ca[@]}"
certificate client /CN=certified extendedKeyUsage=clientAuth "${by_ca[@]}"
# The servers read them as their own users.
chmod 755 "$certificates"
chmod 644 "$certificates"/*.pem
own_key() { # own_key USER FOLDER
    install -m 600 "$certificates/server.key" "$2/server.key"
    own "$1" "$2/server.key"
}

start_postgres() {
    local data=$dir/postgres port tries
    mkdir "$data"
    own_key postgres "$data"
    own postgres "$data"
    cd "$data"
    # shellcheck disable=SC2016 # for the inner shell
    "${as_postgres[@]}" sh -c 'umask 077; printf "%s" "$2" > "$1/pw"' sh "$data" "$password"
    "${as_postgres[@]}" "$bin/initdb" -D "$data/data" -U kilonova --auth=scram-sha-256 --pwfile="$data/pw" -E UTF8 --locale=C \
        --no-sync > "$dir/postgres.log" 2>&1 || { cat "$dir/postgres.log" >&2; return 1; }
    "${as_postgres[@]}" sed -i '1i hostssl all certified 127.0.0.1/32 scram-sha-256 clientcert=verify-full' "$data/data/pg_hba.conf"
    for tries in 1 2 3; do
        port=$(free_port)
        "${as_postgres[@]}" "$bin/postgres" -D "$data/data" -p "$port" -c listen_addresses=127.0.0.1 \
            -c unix_socket_directories="$data" -c fsync=off -c synchronous_commit=off -c full_page_writes=off \
            -c ssl=on -c ssl_cert_file="$certificates/server.pem" -c ssl_key_file="$data/server.key" \
            -c ssl_ca_file="$certificates/ca.pem" -c max_connections=300 -c shared_buffers=64MB \
            -c max_wal_size=256MB -c autovacuum=off \
            >> "$dir/postgres.log" 2>&1 &
        echo $! > "$dir/postgres.pid"
        for _ in $(seq 600); do
            if PGPASSWORD=$password "$bin/psql" -q -h 127.0.0.1 -p "$port" -U kilonova -d postgres \
                -c 'CREATE DATABASE kilonova' -c "CREATE USER certified SUPERUSER PASSWORD '$password'" >/dev/null 2>&1; then
                echo "postgres://kilonova:$password@127.0.0.1:$port/kilonova" > "$dir/postgres.url"
                return
            fi
            kill -0 "$(cat "$dir/postgres.pid")" 2>/dev/null || break
            sleep 0.1
        done
    done
    tail -n 20 "$dir/postgres.log" >&2
    return 1
}

start_mariadb() {
    local data=$dir/mariadb port tries
    mkdir "$data" "$data/tmp"
    own_key mysql "$data"
    own mysql "$data"
    own mysql "$data/tmp"
    cd "$data"
    # A folder of its own: whichever MariaDB starts deletes the temporary tables that it finds in the common one.
    "${as_mysql[@]}" mariadb-install-db --no-defaults --datadir="$data/data" --tmpdir="$data/tmp" \
        --skip-test-db --auth-root-authentication-method=normal --skip-name-resolve > "$dir/mariadb.log" 2>&1 ||
        { cat "$dir/mariadb.log" >&2; return 1; }
    # shellcheck disable=SC2016 # for the inner shell
    "${as_mysql[@]}" sh -c 'umask 077; cat > "$1/init.sql"' sh "$data" <<SQL
CREATE DATABASE IF NOT EXISTS kilonova CHARACTER SET utf8mb4;
CREATE OR REPLACE USER kilonova@'127.0.0.1' IDENTIFIED BY '$password';
GRANT ALL ON *.* TO kilonova@'127.0.0.1' WITH GRANT OPTION;
CREATE OR REPLACE USER certified@'127.0.0.1' IDENTIFIED BY '$password' REQUIRE X509;
GRANT ALL ON *.* TO certified@'127.0.0.1';
SQL
    for tries in 1 2 3; do
        port=$(free_port)
        "${as_mysql[@]}" mariadbd --no-defaults --datadir="$data/data" --tmpdir="$data/tmp" --port="$port" \
            --bind-address=127.0.0.1 \
            --ssl-ca="$certificates/ca.pem" --ssl-cert="$certificates/server.pem" --ssl-key="$data/server.key" \
            --socket="$data/sock" --pid-file="$data/pid" --init-file="$data/init.sql" --skip-name-resolve \
            --innodb-flush-log-at-trx-commit=0 --innodb-flush-method=nosync --innodb-doublewrite=0 \
            --innodb-file-per-table=0 `# each test makes all tables` \
            --innodb-buffer-pool-size=128M --max-connections=300 --skip-log-bin --character-set-server=utf8mb4 \
            >> "$dir/mariadb.log" 2>&1 &
        echo $! > "$dir/mariadb.pid"
        for _ in $(seq 600); do
            if MYSQL_PWD=$password mariadb --no-defaults --skip-ssl -h 127.0.0.1 -P "$port" -u kilonova -e 'SELECT 1' kilonova >/dev/null 2>&1; then
                echo "mysql://kilonova:$password@127.0.0.1:$port/kilonova" > "$dir/mariadb.url"
                return
            fi
            kill -0 "$(cat "$dir/mariadb.pid")" 2>/dev/null || break
            sleep 0.1
        done
    done
    tail -n 20 "$dir/mariadb.log" >&2
    return 1
}

# Both at once; each leaves its URL in a file.
start_postgres &
postgres_starter=$!
start_mariadb &
mariadb_starter=$!
wait "$postgres_starter" || die "PostgreSQL did not start"
wait "$mariadb_starter" || die "MariaDB did not start"
say "PostgreSQL and MariaDB are up after $((($(date +%s%N) - started) / 1000000)) ms"

KILONOVA_TEST_POSTGRES=$(cat "$dir/postgres.url")
KILONOVA_TEST_MYSQL=$(cat "$dir/mariadb.url")
KILONOVA_TEST_DATABASE_CERTIFICATES=$certificates
export KILONOVA_TEST_POSTGRES KILONOVA_TEST_MYSQL KILONOVA_TEST_DATABASE_CERTIFICATES
"$@" &
child=$!
code=0
wait "$child" || code=$?
child=
exit "$code"
