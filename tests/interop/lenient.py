"""A server of the kind that is easily confused: Python's own http.server, bodies read as its users read
them. Says what it takes for a request, a JSON line each; the first line is its port."""

import http.client
import http.server
import json
import sys
import threading

# The proxy adds a field or two to as many as may be.
http.client._MAXHEADERS = 200


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    lock = threading.Lock()

    def say(self, **what):
        with self.lock:
            print(json.dumps(what), flush=True)

    def body(self):
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            whole = b""
            while True:
                size = int(self.rfile.readline().split(b";")[0].strip(), 16)
                if size == 0:
                    break
                whole += self.rfile.read(size)
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
            return whole
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def answer(self):
        try:
            body = self.body()
        except ValueError as error:
            self.say(error=repr(error))
            self.close_connection = True
            return
        self.say(line=self.requestline, body=len(body))
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def __getattr__(self, name):
        if name.startswith("do_"):
            return self.answer
        raise AttributeError(name)

    def send_error(self, code, message=None, explain=None):
        self.say(refused=code, line=getattr(self, "requestline", ""))
        super().send_error(code, message, explain)

    def log_message(self, *args):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        # The proxy breaks off what it refuses in the middle.
        pass


server = Server(("127.0.0.1", 0), Handler)
print(server.server_address[1], flush=True)
threading.Thread(target=lambda: (sys.stdin.read(), server.shutdown()), daemon=True).start()
server.serve_forever()
