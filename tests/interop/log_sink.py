"""Gets access logs by Envoy's service or OpenTelemetry's, read with the official messages.

    log_sink.py "als HOST:PORT"     in the environment `grpc`
    log_sink.py "otlp HOST:PORT"    in the environment `otlp`; posts are taken at the next line's second port

Prints its ports, then answers each line on standard input with one line of JSON:

    all     what it was told so far
    count   how much that was
    stop    nothing is read from now on, and no message answered
    go      all is as before
    cut     streams that are open are ended
"""

import concurrent.futures
import http.server
import json
import sys
import threading

# A program beside this one has the name of a package that Envoy's messages need.
del sys.path[0]

import grpc
from google.protobuf import json_format, unknown_fields

TOLD = []
STREAMS = []
CHANGED = threading.Condition()
STATE = {"reads": True, "cut": 0}


def plain(message):
    # Envoy's messages may be newer than these.
    return json_format.MessageToDict(message, preserving_proto_field_name=True)


def wait():
    """Until messages are read."""
    with CHANGED:
        CHANGED.wait_for(lambda: STATE["reads"])


def als():
    from envoy.service.accesslog.v3 import als_pb2, als_pb2_grpc

    class Logs(als_pb2_grpc.AccessLogServiceServicer):
        def StreamAccessLogs(self, messages, context):
            began = STATE["cut"]
            first = None
            stream = {"messages": 0, "identified": 0, "metadata": dict(context.invocation_metadata())}
            with CHANGED:
                STREAMS.append(stream)
                number = len(STREAMS)
            wait()
            for message in messages:
                if STATE["cut"] != began:
                    context.abort(grpc.StatusCode.UNAVAILABLE, "cut")
                wait()
                stream["messages"] += 1
                if message.HasField("identifier"):
                    stream["identified"] += 1
                    first = message.identifier
                kind = message.WhichOneof("log_entries")
                with CHANGED:
                    for entry in getattr(message, kind).log_entry:
                        TOLD.append({
                            "node": first.node.id,
                            "cluster": first.node.cluster,
                            "log": first.log_name,
                            "stream": number,
                            "kind": kind,
                            "entry": plain(entry),
                        })
            return als_pb2.StreamAccessLogsResponse()

    return lambda server: als_pb2_grpc.add_AccessLogServiceServicer_to_server(Logs(), server)


def otlp():
    from opentelemetry.proto.collector.logs.v1 import logs_service_pb2 as service
    from opentelemetry.proto.collector.logs.v1 import logs_service_pb2_grpc as service_grpc

    def value(of):
        kind = of.WhichOneof("value")
        if kind == "kvlist_value":
            return {one.key: value(one.value) for one in of.kvlist_value.values}
        if kind == "array_value":
            return [value(one) for one in of.array_value.values]
        return getattr(of, kind) if kind else None

    def take(request, how):
        wait()
        for group in request.resource_logs:
            assert not len(unknown_fields.UnknownFieldSet(group)), group
            resource = {one.key: value(one.value) for one in group.resource.attributes}
            for part in group.scope_logs:
                for record in part.log_records:
                    assert not len(unknown_fields.UnknownFieldSet(record)), record
                    assert record.time_unix_nano > 0, record
                    with CHANGED:
                        TOLD.append({
                            "how": how,
                            "node": resource.get("node_name", ""),
                            "log": resource.get("log_name", ""),
                            "resource": resource,
                            "body": value(record.body),
                            "attributes": {one.key: value(one.value) for one in record.attributes},
                        })
        return service.ExportLogsServiceResponse()

    class Logs(service_grpc.LogsServiceServicer):
        def Export(self, request, context):
            return take(request, "grpc")

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            assert self.path == "/v1/logs" and self.headers["content-type"] == "application/x-protobuf"
            if self.headers.get("transfer-encoding", "").lower() == "chunked":
                body = b""
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
            else:
                body = self.rfile.read(int(self.headers["content-length"]))
            answer = take(service.ExportLogsServiceRequest.FromString(body), "http").SerializeToString()
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_):
            pass

    plain_server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=plain_server.serve_forever, daemon=True).start()

    def add(server):
        service_grpc.add_LogsServiceServicer_to_server(Logs(), server)
        return plain_server.server_address[1]

    return add


def main():
    mode, address = sys.argv[1].split()
    # A sink that reads nothing must soon hold up whoever tells it.
    options = [("grpc.so_reuseport", 0), ("grpc.http2.lookahead_bytes", 65536), ("grpc.http2.bdp_probe", 0)]
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(max_workers=16), options=options)
    posts = {"als": als, "otlp": otlp}[mode]()(server)
    port = server.add_insecure_port(address)
    server.start()
    print(port, *([posts] if posts else []), flush=True)
    for line in sys.stdin:
        line = line.strip()
        with CHANGED:
            if line == "all":
                answer = {"told": TOLD, "streams": STREAMS}
            elif line == "count":
                answer = len(TOLD)
            else:
                if line == "stop":
                    STATE["reads"] = False
                elif line == "go":
                    STATE["reads"] = True
                elif line == "cut":
                    STATE["cut"] += 1
                answer = line
            CHANGED.notify_all()
            print(json.dumps(answer), flush=True)


main()
