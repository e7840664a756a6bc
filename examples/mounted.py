"""The dashboard inside an application of yours."""

import asyncio
import http.client

from shop import bus
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Mount

from postbus.dashboard import Access, app
from postbus.dashboard.serving import Serving


# --8<-- [start:mount]
def who_may(request: Request) -> Access:
    return Access.FULL if request.headers.get("x-team") == "operators" else Access.DENY


application = Starlette(routes=[Mount("/bus", app(bus, authorize=who_may, target="shop:bus"))])
# --8<-- [end:mount]


async def main() -> None:
    server = Serving(application, port=0)
    address = await server.start()
    for team in ("operators", "visitors"):
        print(team, await asyncio.to_thread(status, address, team))
    server.end()
    await server.ended()


def status(address: str, team: str) -> int:
    connection = http.client.HTTPConnection(address.removeprefix("http://").rstrip("/"))
    connection.request("GET", "/bus/dead", headers={"x-team": team})
    found = connection.getresponse().status
    connection.close()
    return found


if __name__ == "__main__":
    asyncio.run(main())

# Output:
# operators 200
# visitors 403
