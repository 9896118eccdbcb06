"""A receiver of webhooks over TLS: writes down what it is sent, and says no to those whose path ends with /no.

usage: webhook.py PORT CERTIFICATE KEY LOG
"""

import http.server
import json
import ssl
import sys

PORT, CERTIFICATE, KEY, LOG = sys.argv[1:]


class Receiver(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        with open(LOG, "a", encoding="utf-8") as log:
            line = {
                "path": self.path,
                "host": self.headers["host"],
                "type": self.headers["content-type"],
                "payload": json.loads(body),
            }
            log.write(json.dumps(line) + "\n")
        self.send_response(403 if self.path.endswith("/no") else 200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(CERTIFICATE, KEY)
server = http.server.ThreadingHTTPServer(("127.0.0.1", int(PORT)), Receiver)
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
