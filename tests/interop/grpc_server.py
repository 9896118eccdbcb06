"""A plain gRPC server of /echo.Echo. Prints its port."""

import sys
import threading
from concurrent import futures

import grpc

name = sys.argv[1].encode()
ended = threading.Event()


def count(request, context):
    for n in range(int(request)):
        if not context.is_active():
            return
        yield str(n).encode()


def talk(requests, context):
    said = 0
    for message in requests:
        said += 1
        yield name + b": " + message
    context.set_trailing_metadata([("x-said", f"said {said}")])


def refuse(request, context):
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not today: ä")


def sleep(request, context):
    ended.wait(5)
    return b""


METHODS = {
    "Name": grpc.unary_unary_rpc_method_handler(lambda request, context: name),
    "Mirror": grpc.unary_unary_rpc_method_handler(lambda request, context: request),
    "Refuse": grpc.unary_unary_rpc_method_handler(refuse),
    "Sleep": grpc.unary_unary_rpc_method_handler(sleep),
    "Count": grpc.unary_stream_rpc_method_handler(count),
    "Collect": grpc.stream_unary_rpc_method_handler(
        lambda requests, context: str(sum(1 for _ in requests)).encode()
    ),
    "Talk": grpc.stream_stream_rpc_method_handler(talk),
}


class Echo(grpc.GenericRpcHandler):
    def service(self, details):
        service, _, method = details.method.rpartition("/")
        return METHODS.get(method) if service == "/echo.Echo" else None


server = grpc.server(futures.ThreadPoolExecutor(max_workers=8))
server.add_generic_rpc_handlers((Echo(),))
port = server.add_insecure_port("127.0.0.1:0")
server.start()
print(port, flush=True)
sys.stdin.read()
ended.set()
