#!/usr/bin/env python3
"""What AuthorizationPolicies and tokens cost a request: the CPU of sidecars with a thousand policies, and of one
that looks at RS256 tokens of 2048 bits, beside that of one without.

    tests/bench/policies.py [--binary MESHCTL] [--policies 1000] [--rounds 7] [--duration 3]

Needs nginx (the application), wrk (the caller) and openssl. A control plane and five sidecars run on loopback; rounds are
interleaved, and the medians are compared: absolute figures are this machine's.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from base64 import urlsafe_b64encode
from pathlib import Path

from stand import Stand, service

NET = "127.77.0."
# Of each sidecar: what one of its policies says.
KINDS = {
    "none": None,
    "by path": "action: DENY\n  rules: [{to: [{operation: {methods: [GET], paths: ['/svc-%d/*']}}]}]",
    "by caller": "action: DENY\n  rules: [{from: [{source: {principals: [cluster.local/ns/a/sa/s%d]}}], "
    "to: [{operation: {methods: [GET]}}]}]",
    "two rules": "action: ALLOW\n  rules: [{from: [{source: {namespaces: [n%d]}}], to: [{operation: {methods: [POST]}}]}, "
    "{to: [{operation: {paths: [/orders/%d]}}]}]",
}
# The last sidecar takes tokens: always the same one, which is remembered, or more than are.
TOKENS = {"a token, remembered": 1, "tokens, each verified": 4000}
LUA = """local tokens = {}
for line in io.lines("%s") do tokens[#tokens + 1] = line end
local at = 0
request = function()
  at = at %% %d + 1
  return wrk.format("GET", "/orders/7", {authorization = "Bearer " .. tokens[at]})
end
"""
NGINX = """daemon off; worker_processes 1; pid %(dir)s/nginx.pid; error_log stderr crit;
events { worker_connections 512; }
http { access_log off; keepalive_requests 100000000;
  server { listen %(at)s; location / { return 200 "ok"; } } }
"""


def cpu(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def base64(data):
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def signer(home):
    """A key as a JWKS, and what signs by it."""
    key = f"{home}/key.pem"
    openssl = lambda *argv, data=None: subprocess.run(["openssl", *argv], input=data, capture_output=True, check=True).stdout
    openssl("genrsa", "-out", key, "2048")
    modulus = openssl("rsa", "-in", key, "-noout", "-modulus").decode().strip().split("=")[1]
    jwks = {"keys": [{"kty": "RSA", "alg": "RS256", "kid": "k", "n": base64(bytes.fromhex(modulus)), "e": "AQAB"}]}

    def sign(number):
        claims = {"iss": "bench", "sub": f"user-{number}", "exp": int(time.time()) + 3600}
        head = json.dumps({"alg": "RS256", "kid": "k"}).encode()
        text = f"{base64(head)}.{base64(json.dumps(claims).encode())}"
        return f"{text}.{base64(openssl('dgst', '-sha256', '-sign', key, data=text.encode()))}"

    return json.dumps(jwks), sign


def status(url):
    try:
        with urllib.request.urlopen(url) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def manifests(count, jwks):
    made = []
    for index, text in enumerate(KINDS.values()):
        name = f"app{index}"
        made.append(service(name))
        for number in range(count if text else 0):
            said = text.replace("%d", str(number))
            made.append(
                "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n"
                f"metadata: {{name: {name}-{number}}}\nspec:\n  selector: {{matchLabels: {{app: {name}}}}}\n  {said}\n"
            )
    name = f"app{len(KINDS)}"
    made.append(service(name))
    made.append(
        f"apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: {name}}}\n"
        f"spec: {{selector: {{matchLabels: {{app: {name}}}}}, jwtRules: [{{issuer: bench, jwks: '{jwks}'}}]}}\n"
    )
    return "---\n".join(made)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--binary", default=os.environ.get("MESHCTL_BIN", "target/release/meshctl"))
    p.add_argument("--policies", type=int, default=1000)
    p.add_argument("--rounds", type=int, default=7)
    p.add_argument("--duration", type=int, default=3, help="seconds")
    a = p.parse_args()
    with Stand(a.binary, NET) as stand:
        home = stand.home
        jwks, sign = signer(home)
        stand.mesh(NGINX)
        pids = []
        for index in range(len(KINDS) + 1):
            name = f"app{index}"
            pids.append(stand.sidecar(name, f"{NET}{10 + index}", "--access-log", "off"))
        time.sleep(3)
        stand.run("apply", "-f", "-", text=manifests(a.policies, jwks))
        scripts = {}
        for name, count in TOKENS.items():
            listed = Path(home, f"{count}.txt")
            listed.write_text("\n".join(sign(number) for number in range(count)) + "\n")
            scripts[name] = Path(home, f"{count}.lua")
            scripts[name].write_text(LUA % (listed, count))
        for index, path in [(1, "/svc-7/x"), (3, "/others")]:
            if status(f"http://{NET}{10 + index}:9080{path}") != 403:
                sys.exit(f"the policies of app{index} are not in force")
        cases = [(name, index, []) for index, name in enumerate(KINDS)]
        cases += [(name, len(KINDS), ["-s", str(script)]) for name, script in scripts.items()]
        costs = [[] for _ in cases]
        for _ in range(a.rounds):
            for at, (_, index, more) in enumerate(cases):
                pid = pids[index]
                before = cpu(pid)
                url = f"http://{NET}{10 + index}:9080/orders/7"
                argv = ["wrk", "-t1", "-c8", f"-d{a.duration}", *more, url]
                said = subprocess.run(argv, capture_output=True, text=True).stdout
                if "Non-2xx" in said or "Socket errors" in said:
                    sys.exit(said)
                count = int(re.search(r"(\d+) requests in", said).group(1))
                costs[at].append((cpu(pid) - before) / count * 1e6)
        base = statistics.median(costs[0])
        print(f"| {a.policies} policies | CPU µs a request | of none |\n| --- | --: | --: |")
        for (name, _, _), all_ in zip(cases, costs):
            middle = statistics.median(all_)
            print(f"| {name} | {middle:.2f} | {middle / base:.3f} |")


if __name__ == "__main__":
    main()
