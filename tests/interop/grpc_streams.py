"""Every kind of call of /echo.Echo through the target, as host echo:9090; prints what came of them."""

import json
import queue
import sys

import grpc

channel = grpc.insecure_channel(
    sys.argv[1],
    options=[
        ("grpc.default_authority", "echo:9090"),
        ("grpc.max_receive_message_length", 1 << 24),
    ],
)
found = {}

found["unary"] = channel.unary_unary("/echo.Echo/Name")(b"", timeout=10).decode()

stream = channel.unary_stream("/echo.Echo/Count")
found["serverStream"] = [message.decode() for message in stream(b"5", timeout=10)]

collect = channel.stream_unary("/echo.Echo/Collect")
found["clientStream"] = collect((b"x" for _ in range(100)), timeout=10).decode()

# The next message is only sent when the last was answered, so nothing may be held back on the way.
words = queue.Queue()
talk = channel.stream_stream("/echo.Echo/Talk")(iter(words.get, None), timeout=10)
answers = []
for word in (b"a", b"b", b"c"):
    words.put(word)
    answers.append(next(talk).decode())
words.put(None)
found["conversation"] = answers + [message.decode() for message in talk]
found["trailer"] = dict(talk.trailing_metadata())["x-said"]


def failure(method, request=b"", timeout=10):
    try:
        channel.unary_unary(method)(request, timeout=timeout)
    except grpc.RpcError as error:
        return error


error = failure("/echo.Echo/Refuse")
found["status"] = [error.code().name, error.details()]
found["unknown"] = failure("/echo.Echo/Nothing").code().name
found["deadline"] = failure("/echo.Echo/Sleep", timeout=0.3).code().name

endless = channel.unary_stream("/echo.Echo/Count")(b"1000000", timeout=10)
next(endless)
endless.cancel()
found["cancelled"] = endless.code().name

large = channel.unary_unary("/echo.Echo/Mirror")(b"x" * 3_000_000, timeout=10)
found["large"] = len(large)
print(json.dumps(found), flush=True)
