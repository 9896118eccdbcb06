"""Asks for what an application in a pod asks for, and prints what it gets.

    ask.py udp ADDRESS PORT          what a server says to a datagram
    ask.py tcp ADDRESS PORT          what a server says first
    ask.py names NAME                every address of a name, as the system's resolver finds them
    ask.py dns udp|tcp SERVER NAME TYPE     addresses in the answer of one server (TYPE: 1 is A, 28 AAAA)
"""

import ipaddress
import socket
import struct
import sys


def connected(kind, address, port):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    opened = socket.socket(family, kind)
    opened.settimeout(5)
    opened.connect((address, int(port)))
    return opened


def question(name, kind):
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return struct.pack("!6H", 7, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!2H", kind, 1)


def whole(stream, length):
    data = b""
    while len(data) < length:
        more = stream.recv(length - len(data))
        if not more:
            raise SystemExit("the server hung up")
        data += more
    return data


def records(asked, answer):
    at = len(asked)
    for _ in range(struct.unpack("!H", answer[6:8])[0]):
        # The name is one pointer, as everybody writes it.
        if answer[at] & 0xC0 == 0xC0:
            at += 2
        else:
            while answer[at]:
                at += 1 + answer[at]
            at += 1
        length = struct.unpack("!H", answer[at + 8 : at + 10])[0]
        yield str(ipaddress.ip_address(answer[at + 10 : at + 10 + length]))
        at += 10 + length


what, *rest = sys.argv[1:]
if what == "udp":
    with connected(socket.SOCK_DGRAM, *rest) as opened:
        opened.send(b"who?")
        print(opened.recv(4096).decode().strip())
elif what == "tcp":
    with connected(socket.SOCK_STREAM, *rest) as opened:
        print(opened.recv(4096).decode().strip())
elif what == "names":
    found = socket.getaddrinfo(rest[0], 80, type=socket.SOCK_STREAM)
    print(" ".join(sorted({place[4][0] for place in found})))
else:
    over, server, name, kind = rest
    asked = question(name, int(kind))
    if over == "udp":
        with connected(socket.SOCK_DGRAM, server, 53) as opened:
            opened.send(asked)
            answer = opened.recv(4096)
    else:
        with connected(socket.SOCK_STREAM, server, 53) as opened:
            opened.sendall(struct.pack("!H", len(asked)) + asked)
            answer = whole(opened, struct.unpack("!H", whole(opened, 2))[0])
    print(" ".join(sorted(records(asked, answer))))
