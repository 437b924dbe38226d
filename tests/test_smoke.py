import pytest
from tests.clients import StreamClient
from tests.sites import SERVERS

pytestmark = pytest.mark.once

@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("app", ["project.asgi:application", "tests.asgi:application"])
async def test_smoke(site, server, app):
    s = site.serve(server, app)
    c = await StreamClient(s.port, "/events/news/").connect()
    assert c.status == 200, s.log.read_text()
    await c.read_control(1)
    print(c.raw, c.response_headers)
    site.manage("publish", "news", "hello\nworld")
    ev = await c.read_until(1)
    assert ev[0].data == "hello\nworld"
    s.json("/test/burst/?n=50")
    ev = await c.read_until(51)
    assert len(ev) == 51
    print(s.json("/test/process/"))
