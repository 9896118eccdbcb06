"""Calls /echo.Echo/Name at the target, as often as each line on stdin says, and prints who answered."""

import collections
import json
import sys

import grpc

channel = grpc.insecure_channel(sys.argv[1])
call = channel.unary_unary("/echo.Echo/Name")
for line in sys.stdin:
    counts = collections.Counter()
    for _ in range(int(line)):
        try:
            counts[call(b"", timeout=10, wait_for_ready=True).decode()] += 1
        except grpc.RpcError as error:
            counts[f"{error.code().name}: {error.details()}"] += 1
    print(json.dumps(counts), flush=True)
