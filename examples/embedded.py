import asyncio
import socket
from dataclasses import dataclass

from postbus import Bus, event

bus = Bus("sqlite:///embedded.db")


@event("visits.page.visited")
@dataclass(frozen=True)
class PageVisited:
    path: str


counted: asyncio.Queue[str] = asyncio.Queue()


@bus.subscriber(PageVisited)
async def count(event: PageVisited) -> None:
    counted.put_nowait(event.path)


# --8<-- [start:serve]
async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    path = (await reader.readline()).split()[1].decode()
    await bus.publish(PageVisited(path))
    writer.write(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
    writer.close()


async def serve(port: int, stop: asyncio.Event) -> None:
    async with bus.worker(), await asyncio.start_server(answer, "127.0.0.1", port):
        await stop.wait()
    # The worker has let its running subscribers finish, and handed back what it had not started.


# --8<-- [end:serve]


async def get(port: int, path: str) -> str:
    while True:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except ConnectionError:  # it is not up yet
            await asyncio.sleep(0.01)
            continue
        writer.write(f"GET {path} HTTP/1.1\r\n\r\n".encode())
        answer = await reader.read()
        writer.close()
        return answer.partition(b"\r\n")[0].decode()


async def main() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    stop = asyncio.Event()
    server = asyncio.create_task(serve(port, stop))
    print(await get(port, "/hello"))
    print(f"visited: {await counted.get()}")  # the worker may have been faster than the answer
    stop.set()
    await server


if __name__ == "__main__":
    asyncio.run(main())

# Output:
# HTTP/1.1 204 No Content
# visited: /hello
