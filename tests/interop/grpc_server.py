"""A plain gRPC server that answers /echo.Echo/Name with its name. Prints its port."""

import sys
from concurrent import futures

import grpc

name = sys.argv[1].encode()


class Echo(grpc.GenericRpcHandler):
    def service(self, details):
        if details.method == "/echo.Echo/Name":
            return grpc.unary_unary_rpc_method_handler(lambda request, context: name)
        return None


server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
server.add_generic_rpc_handlers((Echo(),))
port = server.add_insecure_port("127.0.0.1:0")
server.start()
print(port, flush=True)
sys.stdin.read()
