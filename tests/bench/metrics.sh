#!/bin/sh
# Which part of a request's instructions in user space goes into counting it: all below `observe::request`, of everything
# that the process did while it served.
#
#     tests/bench/metrics.sh MESHCTL [REQUESTS]
#
# MESHCTL must have its symbols, and functions that were not merged into each other:
#     CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_STRIP=none cargo build --release
# Needs valgrind, nginx, curl and h2load (nghttp2-client).
set -eu

binary=$1
requests=${2:-5000}
home=$(mktemp -d)
trap 'kill $pids 2>/dev/null || true; rm -rf -- "$home"' EXIT
cat >"$home/nginx.conf" <<CONF
daemon off; worker_processes 1; pid $home/nginx.pid; error_log stderr crit;
events { worker_connections 256; }
http { access_log off; keepalive_requests 100000000; server { listen 127.79.0.2:9080; location / { return 200 "ok"; } } }
CONF
nginx -c "$home/nginx.conf" &
pids=$!
MESHCTL_HOME=$home/mesh valgrind --tool=callgrind --callgrind-out-file="$home/out" \
	"$binary" proxy --static 127.79.0.1:9080=127.79.0.2:9080 --workers 1 >"$home/log" 2>&1 &
proxy=$!
pids="$pids $proxy"
tries=0
until curl --silent --output /dev/null http://127.79.0.1:9080/; do
	tries=$((tries + 1))
	[ "$tries" -lt 120 ] || { cat "$home/log" >&2; exit 1; }
	sleep 0.5
done
h2load -t1 -c8 -n "$requests" --h1 http://127.79.0.1:9080/ | grep succeeded
kill "$proxy"
wait "$proxy" || true
callgrind_annotate --inclusive=yes "$home/out" | awk -v requests="$requests" '
	{ gsub(",", "", $1) }
	/Request::run/ && !all { all = $1 }
	/observe::request/ && !counting { counting = $1 }
	END {
		if (!all || !counting) { print "no such functions: was it built as said above?"; exit 1 }
		printf "%d instructions a request, of which %d (%.1f %%) count it\n", all / requests, counting / requests, 100 * counting / all
	}'
