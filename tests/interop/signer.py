"""A signer that speaks Istio's CA API, and misbehaves as it is told.

Prints its port. Each line of its input is what it does from then on, and is answered with a line: `ok`, or JSON where
something is asked. Its roots and leaves are made by openssl in the directory that is its argument, where `root.pem`
is whom the mesh believes. The messages are built here from their numbers, so that nothing of ours is in them."""

import datetime
import json
import os
import subprocess
import sys
import tempfile
import threading
from concurrent import futures

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, struct_pb2

TEXT, INT64, MESSAGE = 9, 3, 11
METHOD = "/istio.v1.auth.IstioCertificateService/CreateCertificate"


def messages():
    file = descriptor_pb2.FileDescriptorProto(name="own.proto", package="own", syntax="proto3")
    file.dependency.append("google/protobuf/struct.proto")
    request = file.message_type.add(name="Request")
    request.field.add(name="csr", number=1, type=TEXT, label=1)
    request.field.add(name="validity", number=3, type=INT64, label=1)
    request.field.add(name="metadata", number=4, type=MESSAGE, label=1, type_name=".google.protobuf.Struct")
    answer = file.message_type.add(name="Answer")
    answer.field.add(name="chain", number=1, type=TEXT, label=3)
    pool = descriptor_pool.DescriptorPool()
    struct = descriptor_pb2.FileDescriptorProto()
    struct_pb2.DESCRIPTOR.CopyToProto(struct)
    pool.Add(struct)
    pool.Add(file)
    made = message_factory.GetMessageClass
    return [made(pool.FindMessageTypeByName(f"own.{name}")) for name in ("Request", "Answer")]


REQUEST, ANSWER = messages()

CONFIG = """
[ca]
default_ca = own
[own]
database = {dir}/index.txt
new_certs_dir = {dir}
rand_serial = yes
default_md = sha256
policy = any
unique_subject = no
[any]
organizationName = optional
[leaf]
{leaf}
"""


def openssl(*args, stdin=None):
    done = subprocess.run(["openssl", *args], input=stdin, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"openssl {args[0]}: {done.stderr}")
    return done.stdout


def read(path):
    with open(path) as file:
        return file.read()


class Signer:
    def __init__(self, home):
        self.home, self.mode, self.token = home, "good", None
        self.lock = threading.Lock()
        self.gone = threading.Event()
        # Whom it signed for, and how often it was asked.
        self.signed, self.asked = [], 0
        for root in ("root", "foreign"):
            key, pem = self.file(f"{root}.key"), self.file(f"{root}.pem")
            if not os.path.exists(pem):
                openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", key)
                # Of one name, so that only the key tells them apart.
                openssl("req", "-x509", "-new", "-key", key, "-subj", "/O=signer", "-days", "9", "-out", pem,
                        "-addext", "keyUsage=critical,keyCertSign,cRLSign")
        self.server = self.leaf(self.request("server"), "DNS:signer.test", usage="serverAuth")

    def file(self, name):
        return os.path.join(self.home, name)

    def request(self, name):
        key = self.file(f"{name}.key")
        openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", key)
        return openssl("req", "-new", "-key", key, "-subj", "/O=signer")

    def leaf(self, csr, names, begin=-60, end=3600, ca="CA:FALSE", usage="serverAuth,clientAuth", root="root",
             key_usage="digitalSignature,keyEncipherment"):
        with tempfile.TemporaryDirectory(dir=self.home) as dir:
            open(f"{dir}/index.txt", "w").close()
            leaf = f"basicConstraints=critical,{ca}\nkeyUsage=critical,{key_usage}\nextendedKeyUsage={usage}\n" \
                   f"authorityKeyIdentifier=keyid\nsubjectAltName={names}\n"
            with open(f"{dir}/cnf", "w") as file:
                file.write(CONFIG.format(dir=dir, leaf=leaf))
            with open(f"{dir}/csr", "w") as file:
                file.write(csr)
            now = datetime.datetime.now(datetime.timezone.utc)
            at = lambda seconds: (now + datetime.timedelta(seconds=seconds)).strftime("%Y%m%d%H%M%SZ")
            openssl("ca", "-batch", "-notext", "-config", f"{dir}/cnf", "-extensions", "leaf", "-in", f"{dir}/csr",
                    "-out", f"{dir}/pem", "-cert", self.file(f"{root}.pem"), "-keyfile", self.file(f"{root}.key"),
                    "-startdate", at(begin), "-enddate", at(end))
            return read(f"{dir}/pem")

    def create(self, request, context):
        with self.lock:
            mode, token = self.mode, self.token
            self.asked += 1
        shown = dict(context.invocation_metadata()).get("authorization")
        if token and shown != f"Bearer {token}":
            context.abort(grpc.StatusCode.UNAUTHENTICATED, f"{shown} is not the token")
        who = request.metadata.fields["ImpersonatedIdentity"].string_value
        life, root, own = request.validity, read(self.file("root.pem")), f"URI:{who}"
        leaf = lambda names=own, csr=request.csr, end=life, **other: self.leaf(csr, names, end=end, **other)
        if mode == "silent":
            self.gone.wait(60)
            context.abort(grpc.StatusCode.CANCELLED, "stopped")
        if mode == "unauthenticated":
            # Says back what it was told, and what would be more lines than one in a log.
            words = f'{shown} is unknown\n{{"event":"certificateIssued"}}\x1b[31m'
            context.abort(grpc.StatusCode.UNAUTHENTICATED, words)
        if mode == "exhausted":
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many requests")
        if mode == "crash":
            raise RuntimeError("a bug of the signer")
        chain = {
            "good": lambda: [leaf(), root],
            "other-key": lambda: [leaf(csr=self.request("other")), root],
            "other-identity": lambda: [leaf("URI:spiffe://cluster.local/ns/default/sa/somebody-else"), root],
            "control-plane": lambda: [leaf("URI:spiffe://cluster.local/ns/meshctl-system/sa/meshctl"), root],
            "no-identity": lambda: [leaf("DNS:signer.test"), root],
            "twice": lambda: [leaf(f"{own},{own}"), root],
            "extra-uri": lambda: [leaf(f"{own},URI:spiffe://cluster.local/ns/default/sa/somebody-else"), root],
            "extra-dns": lambda: [leaf(f"{own},DNS:meshctl.meshctl-system.svc"), root],
            "extra-ip": lambda: [leaf(f"{own},IP:127.0.0.1"), root],
            "ca": lambda: [leaf(ca="CA:TRUE"), root],
            "may-sign": lambda: [leaf(key_usage="digitalSignature,keyCertSign"), root],
            "any-purpose": lambda: [leaf(usage="serverAuth,clientAuth,anyExtendedKeyUsage"), root],
            "server-only": lambda: [leaf(usage="serverAuth"), root],
            "expired": lambda: [leaf(begin=-7200, end=-3600), root],
            "not-yet": lambda: [leaf(begin=3600), root],
            "too-long": lambda: [leaf(end=life + 3600), root],
            "empty": lambda: [],
            "garbage": lambda: ["-----BEGIN CERTIFICATE-----\nbm9uc2Vuc2U=\n-----END CERTIFICATE-----\n", root],
            "no-pem": lambda: ["no certificate", root],
            "foreign": lambda: [leaf(root="foreign"), read(self.file("foreign.pem"))],
            "another-first": lambda: [leaf(csr=self.request("other")), leaf(), root],
            "many": lambda: [leaf()] + 10 * [root],
            "huge": lambda: [leaf(), root + "#" * (4 << 20)],
        }[mode]()
        with self.lock:
            self.signed.append(who)
        return ANSWER(chain=chain)

    def serve(self):
        create = grpc.unary_unary_rpc_method_handler(
            self.create, request_deserializer=REQUEST.FromString, response_serializer=ANSWER.SerializeToString)
        own = self

        class Handler(grpc.GenericRpcHandler):
            def service(self, details):
                return create if details.method == METHOD else None

        server = grpc.server(futures.ThreadPoolExecutor(64), options=[("grpc.max_send_message_length", 16 << 20)])
        server.add_generic_rpc_handlers((Handler(),))
        pair = [(read(own.file("server.key")).encode(), own.server.encode())]
        port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials(pair))
        server.start()
        print(port, flush=True)
        for line in sys.stdin:
            word, _, rest = line.strip().partition(" ")
            with self.lock:
                if word == "token":
                    self.token = rest
                elif word == "counts":
                    print(json.dumps({"asked": self.asked, "signed": self.signed}), flush=True)
                    continue
                else:
                    self.mode = word
                    # Whoever still waits is let go.
                    self.gone.set()
                    self.gone = threading.Event()
            print("ok", flush=True)
        self.gone.set()
        os._exit(0)


Signer(sys.argv[1]).serve()
