"""Gets spans by OTLP over gRPC, OTLP over HTTP and Zipkin v2, read with the official messages.

Prints the ports of gRPC and of HTTP, then for each line on standard input all spans so far, as one line of JSON.
"""

import concurrent.futures
import http.server
import json
import sys
import threading

import grpc
from google.protobuf import unknown_fields
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as service
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as service_grpc
from opentelemetry.proto.trace.v1 import trace_pb2

SPANS = []
LOCK = threading.Lock()


def text(attributes):
    return {one.key: one.value.string_value for one in attributes}


def take(request, how):
    for group in request.resource_spans:
        resource = text(group.resource.attributes)
        for part in group.scope_spans:
            for span in part.spans:
                # Envoy says more of a span than we do, but nothing that is not of the schema.
                assert not len(unknown_fields.UnknownFieldSet(span)), span
                assert len(span.trace_id) == 16 and len(span.span_id) == 8, span
                assert len(span.parent_span_id) in (0, 8), span
                assert span.end_time_unix_nano >= span.start_time_unix_nano, span
                with LOCK:
                    SPANS.append({
                        "how": how,
                        "service": resource["service.name"],
                        "scope": part.scope.name,
                        "trace": span.trace_id.hex(),
                        "id": span.span_id.hex(),
                        "parent": span.parent_span_id.hex(),
                        "name": span.name,
                        "kind": trace_pb2.Span.SpanKind.Name(span.kind),
                        "error": span.status.code == trace_pb2.Status.STATUS_CODE_ERROR,
                        "tags": text(span.attributes),
                    })


class Traces(service_grpc.TraceServiceServicer):
    def Export(self, request, context):
        take(request, "grpc")
        return service.ExportTraceServiceResponse()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.body()
        if self.path == "/v1/traces":
            assert self.headers["content-type"] == "application/x-protobuf"
            take(service.ExportTraceServiceRequest.FromString(body), "http")
            answer = service.ExportTraceServiceResponse().SerializeToString()
            self.answer(200, "application/x-protobuf", answer)
        elif self.path == "/api/v2/spans":
            with LOCK:
                for span in json.loads(body):
                    SPANS.append({
                        "how": "zipkin",
                        "service": span["localEndpoint"]["serviceName"],
                        "trace": span["traceId"],
                        "id": span["id"],
                        "parent": span.get("parentId", ""),
                        "name": span["name"],
                        "kind": "SPAN_KIND_" + span["kind"],
                        "error": "error" in span["tags"],
                        "tags": span["tags"],
                    })
            self.answer(202, "text/plain", b"")
        else:
            self.answer(404, "text/plain", b"")

    def body(self):
        if self.headers.get("transfer-encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers["content-length"]))
        whole = b""
        while size := int(self.rfile.readline(), 16):
            whole += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return whole

    def answer(self, status, kind, body):
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def main():
    host = sys.argv[1]
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(max_workers=8))
    service_grpc.add_TraceServiceServicer_to_server(Traces(), server)
    grpc_port = server.add_insecure_port(f"{host}:0")
    server.start()
    plain = http.server.ThreadingHTTPServer((host, 0), Handler)
    threading.Thread(target=plain.serve_forever, daemon=True).start()
    print(grpc_port, plain.server_address[1], flush=True)
    for _ in sys.stdin:
        with LOCK:
            print(json.dumps(SPANS), flush=True)


main()
