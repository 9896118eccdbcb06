"""Whoever is asked whether requests may be made, by gRPC and by HTTP, and an application that says what it got.

Prints the ports of the three as JSON. What is answered goes by the path that is asked about. The messages of
envoy.service.auth.v3 are built here from their numbers, so that nothing of ours is in them."""

import http.server
import json
import os
import sys
import threading
import time
from concurrent import futures

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

TEXT, BYTES, INT32, INT64, BOOL, MESSAGE = 9, 12, 5, 3, 8, 11

# Each field: its number, its type or the message that it is, and whether there are several.
MESSAGES = {
    "SocketAddress": {"address": (2, TEXT), "port_value": (3, INT32)},
    "Address": {"socket_address": (1, "SocketAddress")},
    "Peer": {"address": (1, "Address"), "principal": (4, TEXT), "certificate": (5, TEXT)},
    "Entry": {"key": (1, TEXT), "value": (2, TEXT)},
    "HttpRequest": {
        "id": (1, TEXT),
        "method": (2, TEXT),
        "headers": (3, "Entry", True),
        "path": (4, TEXT),
        "host": (5, TEXT),
        "scheme": (6, TEXT),
        "size": (9, INT64),
        "protocol": (10, TEXT),
        "body": (11, TEXT),
        "raw_body": (12, BYTES),
    },
    "Request": {"http": (2, "HttpRequest")},
    "Metadata": {},
    "AttributeContext": {
        "source": (1, "Peer"),
        "destination": (2, "Peer"),
        "request": (4, "Request"),
        "metadata_context": (11, "Metadata"),
    },
    "CheckRequest": {"attributes": (1, "AttributeContext")},
    "Status": {"code": (1, INT32)},
    "BoolValue": {"value": (1, BOOL)},
    "HeaderValueOption": {
        "header": (1, "Entry"),
        "append": (2, "BoolValue"),
        "append_action": (3, INT32),
    },
    "Denied": {
        "status": (1, "Status"),
        "headers": (2, "HeaderValueOption", True),
        "body": (3, TEXT),
    },
    "Ok": {
        "headers": (2, "HeaderValueOption", True),
        "headers_to_remove": (5, TEXT, True),
        "response_headers_to_add": (6, "HeaderValueOption", True),
        "query_parameters_to_set": (7, "Entry", True),
        "query_parameters_to_remove": (8, TEXT, True),
    },
    "CheckResponse": {"status": (1, "Status"), "denied_response": (2, "Denied"), "ok_response": (3, "Ok")},
}


def messages():
    file = descriptor_pb2.FileDescriptorProto(name="own.proto", package="own", syntax="proto3")
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, (number, kind, *several) in fields.items():
            made = message.field.add(name=field, number=number, label=3 if several else 1)
            if isinstance(kind, str):
                made.type, made.type_name = MESSAGE, f".own.{kind}"
            else:
                made.type = kind
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"own.{name}"))
        for name in MESSAGES
    }


OWN = messages()
# Of connections that carry bytes only who calls is known.
BYTES_OF = {"127.0.0.3": "deny", "127.0.0.4": "slow", "127.0.0.5": "broken"}
asked = 0


def seen(request):
    """What is asked, for the application to tell."""
    http = request.attributes.request.http
    headers = {entry.key: entry.value for entry in http.headers}
    wanted = ("authorization", "x-client", "x-secret", "content-length", "x-envoy-auth-partial-body", ":path")
    return {
        "method": http.method,
        "path": http.path,
        "host": http.host,
        "scheme": http.scheme,
        "protocol": http.protocol,
        "body": http.body,
        "raw": http.raw_body.decode(),
        "source": request.attributes.source.address.socket_address.address,
        "principal": request.attributes.source.principal,
        "certificate": request.attributes.source.certificate[:27],
        "destination": request.attributes.destination.principal,
        "metadata": request.attributes.HasField("metadata_context"),
        "headers": {name: headers[name] for name in wanted if name in headers},
    }


def option(key, value, append=None):
    option = OWN["HeaderValueOption"](header=OWN["Entry"](key=key, value=value))
    if append is not None:
        option.append.value = append
    return option


def check(request, context):
    global asked
    asked += 1
    path = request.attributes.request.http.path.partition("?")[0]
    answer = OWN["CheckResponse"]()
    if not request.attributes.HasField("request"):
        source = request.attributes.source
        what = BYTES_OF.get(source.address.socket_address.address)
        if what == "slow":
            time.sleep(5)
        if what == "broken":
            context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
        if what == "deny" or source.principal.endswith("/sa/other-account"):
            answer.status.code = 7
        return answer
    if path.startswith("/deny") or "/deny" in path:
        answer.status.code = 7
        if path != "/deny/bare":
            answer.denied_response.status.code = 401
            answer.denied_response.body = "not you"
            answer.denied_response.headers.append(option("x-why", "because", False))
            answer.denied_response.headers.append(option("content-type", "text/x-why", False))
        return answer
    if path == "/slow":
        time.sleep(5)
    if path == "/broken":
        context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
    ok = answer.ok_response
    ok.headers.append(option("x-asked", json.dumps(seen(request), sort_keys=True), False))
    if path == "/headers":
        ok.headers.append(option("x-client", "set", False))
        ok.headers.append(option("x-more", "two", True))
        ok.headers_to_remove.append("x-secret")
        ok.headers_to_remove.append("host")
        ok.response_headers_to_add.append(option("x-told", "caller", False))
    if path == "/query":
        ok.query_parameters_to_set.append(OWN["Entry"](key="user", value="alice"))
        ok.query_parameters_to_remove.append("admin")
    if path == "/evil":
        ok.headers.append(option("x-client", "a\r\nx-admin: true", False))
    if path == "/route":
        ok.headers.append(option("x-to", "elsewhere", False))
    return answer


class Authorization(grpc.GenericRpcHandler):
    def service(self, details):
        if details.method != "/envoy.service.auth.v3.Authorization/Check":
            return None
        return grpc.unary_unary_rpc_method_handler(
            check,
            request_deserializer=OWN["CheckRequest"].FromString,
            response_serializer=lambda answer: answer.SerializeToString(),
        )


class Web(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, headers, body=b""):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def body(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            whole = b""
            while size := int(self.rfile.readline(), 16):
                whole += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return whole
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def handle_one(self):
        raise NotImplementedError

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = do_OPTIONS = lambda self: self.handle_one()


class Provider(Web):
    def handle_one(self):
        global asked
        asked += 1
        body = self.body().decode()
        bare = self.path.removeprefix("/check").partition("?")[0]
        if "/deny" in bare:
            why = [("X-Why", "because"), ("X-Hidden", "yes"), ("Content-Type", "text/x-why")]
            return self.answer(401, why, b"not you")
        if bare == "/redirect":
            return self.answer(302, [("Location", "https://login.example/?a=b")])
        if bare == "/slow":
            time.sleep(5)
        if bare == "/broken":
            return self.answer(503, [])
        names = ("authorization", "x-client", "x-secret", "x-added", "x-envoy-auth-partial-body", "content-length")
        told = {
            "method": self.command,
            "path": self.path,
            "host": self.headers["Host"],
            "body": body,
            "headers": {name: self.headers[name] for name in names if name in self.headers},
            "fields": len(self.headers.get_all("x-client", [])),
        }
        headers = [("X-Asked", json.dumps(told, sort_keys=True))]
        if bare == "/headers":
            headers += [("X-Client", "set"), ("X-Unlisted", "no"), ("X-Told", "caller")]
            headers += [("x-envoy-auth-headers-to-remove", "x-secret, host")]
        return self.answer(200, headers)


class App(Web):
    def handle_one(self):
        told = {
            "method": self.command,
            "path": self.path,
            "body": self.body().decode(),
            "headers": {name.lower(): ",".join(self.headers.get_all(name)) for name in self.headers},
            "asked": asked,
        }
        self.answer(200, [("X-App", "here")], json.dumps(told).encode())


def serve(handler):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_address[1]


server = grpc.server(futures.ThreadPoolExecutor(max_workers=16))
server.add_generic_rpc_handlers((Authorization(),))
by_grpc = server.add_insecure_port("127.0.0.1:0")
server.start()
print(json.dumps({"grpc": by_grpc, "http": serve(Provider), "app": serve(App)}), flush=True)
sys.stdin.read()
os._exit(0)
