"""WebSocket by the library of that name. `server` answers messages in upper case and prints its port;
a URL is called, and what was said is printed."""

import asyncio
import sys

import websockets
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve


async def server():
    async def answer(socket):
        async for message in socket:
            await socket.send(message.upper())

    async with serve(answer, "127.0.0.1", 0, max_size=None) as listening:
        print(listening.sockets[0].getsockname()[1], flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


async def client(url):
    async with connect(url, max_size=None) as socket:
        for message in ["hello", "x" * 3_000_000, b"bytes \x00"]:
            await socket.send(message)
            answer = await socket.recv()
            assert answer == message.upper(), (message[:20], answer[:20])
        await (await socket.ping())
        # Many at once, in order.
        for number in range(1000):
            await socket.send(f"n{number}")
        for number in range(1000):
            assert await socket.recv() == f"N{number}"
    print(f"closed {socket.close_code}", flush=True)


async def refused(url):
    try:
        async with connect(url):
            print("let in", flush=True)
    except websockets.exceptions.InvalidStatus as error:
        print(f"refused {error.response.status_code}", flush=True)


mode, _, argument = sys.argv[1].partition(" ")
asyncio.run(server() if mode == "server" else refused(argument) if mode == "refused" else client(argument))
