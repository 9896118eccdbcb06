"""What runs in a pod: HTTP, TCP and UDP servers that say who called, and gRPC's health service.

Its argument is JSON: name, and lists of [address, port] for http, tcp, udp and grpc. It prints "ready" once all listen.
"""

import json
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

config = json.loads(sys.argv[1])
name = config["name"]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path.startswith("/slow"):
            time.sleep(2)
        said = {
            "name": name,
            "path": self.path,
            "peer": self.client_address[0],
            "at": self.connection.getsockname()[0],
            "by": self.headers.get("x-forwarded-client-cert", ""),
        }
        body = json.dumps(said).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def server(address, port, kind):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family, kind)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    listener.bind((address, port))
    return listener


def http(address, port):
    served = ThreadingHTTPServer((address, port), Handler, bind_and_activate=False)
    served.socket.close()
    served.socket = server(address, port, socket.SOCK_STREAM)
    served.socket.listen(128)
    threading.Thread(target=served.serve_forever, daemon=True).start()


def tcp(address, port):
    """Says who calls, before anything is asked."""
    listener = server(address, port, socket.SOCK_STREAM)
    listener.listen(128)

    def serve():
        while True:
            stream, peer = listener.accept()
            stream.sendall(f"{name} {peer[0]}\n".encode())
            stream.close()

    threading.Thread(target=serve, daemon=True).start()


def udp(address, port):
    socket_ = server(address, port, socket.SOCK_DGRAM)

    def serve():
        while True:
            _, peer = socket_.recvfrom(4096)
            socket_.sendto(f"{name} {peer[0]}".encode(), peer)

    threading.Thread(target=serve, daemon=True).start()


def grpc_health(places):
    from concurrent import futures

    import grpc

    class Health(grpc.GenericRpcHandler):
        def service(self, details):
            if details.method != "/grpc.health.v1.Health/Check":
                return None
            # HealthCheckResponse{status: SERVING}
            return grpc.unary_unary_rpc_method_handler(lambda request, context: b"\x08\x01")

    health = grpc.server(futures.ThreadPoolExecutor(max_workers=2))
    health.add_generic_rpc_handlers((Health(),))
    for address, port in places:
        where = f"[{address}]" if ":" in address else address
        health.add_insecure_port(f"{where}:{port}")
    health.start()
    return health


for kind, serve in [("http", http), ("tcp", tcp), ("udp", udp)]:
    for address, port in config.get(kind, []):
        serve(address, port)
health = grpc_health(config["grpc"]) if config.get("grpc") else None
print("ready", flush=True)
threading.Event().wait()
