# Functions for the examples: `. examples/canary/ask.sh` once the shop runs.
CLIENT=$(meshctl ps | awk '/^client-v1/ { print $6 }')

# Which version answers one request, by way of the client's sidecar. Takes flags of curl.
ask() {
    curl -s -x "http://$CLIENT:15001" "$@" "${SHOP:-http://shop:9080/}" |
        grep -o '"version": *"[^"]*"' | cut -d '"' -f 4
}

# How many of NUMBER requests each version answers: `shares NUMBER [FLAG OF CURL]...`
shares() {
    count=$1
    shift
    for _ in $(seq "$count"); do ask "$@"; done | sort | uniq -c | awk '{ print $2, $1 }'
}
