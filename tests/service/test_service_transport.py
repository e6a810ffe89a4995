"""The HTTP transport: who gets a request, when it may be sent again, and when it is over. For httpx2 and httpx."""

from __future__ import annotations

import asyncio
import importlib
from collections import Counter

import pytest

from client.client_systems import wait_until
from synod.balance import HealthState
from synod.base import UserError
from synod.service import LOAD_HEADER, Registration, Transport


@pytest.fixture(params=["httpx2", "httpx"])
def http(request):
    return importlib.import_module(request.param)


class Instances:
    """Three instances behind the library's own fake transport; each answers, or fails, as it is told."""

    def __init__(self, http) -> None:
        self.http = http
        self.seen: list[tuple[str, str]] = []
        self.bodies: list[bytes] = []
        self.failures: dict[str, object] = {}
        self.hang: asyncio.Event | None = None
        self.breaks: Exception | None = None

    async def answer(self, request):
        name = request.url.host
        self.seen.append((name, request.method))
        if self.hang is not None:
            await self.hang.wait()
        failure = self.failures.get(name)
        if isinstance(failure, Exception):
            raise failure
        if isinstance(failure, int):
            return self.http.Response(failure)
        self.bodies.append(await request.aread())
        return self.http.Response(200, content=self.body(f"{name}:{request.url.path}?{request.url.query.decode()}"))

    async def body(self, text):
        """In two parts, as it comes from a socket."""
        yield text[:3].encode()
        if self.breaks is not None:
            raise self.breaks
        yield text[3:].encode()

    def transport(self):
        return self.http.MockTransport(self.answer)


@pytest.fixture
async def world(http, cell, unique):
    """The instances, registered, and a client that finds them by name."""
    instances = Instances(http)
    registrations = [Registration(cell, unique, f"http://i{i}:80", instance=f"i{i}") for i in range(3)]
    for registration in registrations:
        await registration.start()
    transport = Transport(cell, http=http, inner=instances.transport(), seed=1)
    async with http.AsyncClient(mounts={"synod://": transport}, base_url=f"synod://{unique}") as client:
        instances.client = client
        instances.balancer = await transport.balancer(unique)
        instances.registrations = registrations
        yield instances
    for registration in registrations:
        await registration.close()


def states(world) -> dict[str, HealthState]:
    return {line.endpoint.name: line.state for line in world.balancer.statistics()}


async def test_requests_find_instances_by_name_and_rotate(world):
    """`synod://service/path` reaches the instances in turn, path and query untouched, Host as the caller said."""
    answers = [await world.client.get("/items/1?a=b") for _ in range(6)]
    assert Counter(name for name, _ in world.seen) == {"i0": 2, "i1": 2, "i2": 2}
    assert answers[0].text.endswith(":/items/1?a=b")
    who = answers[0].extensions["synod"]
    assert who["address"] == f"http://{world.seen[0][0]}:80"
    assert (who["reason"], who["attempts"]) == ("healthy", 1)
    assert all(line.in_flight == 0 for line in world.balancer.statistics())


async def test_who_refuses_is_passed_over_even_by_a_write_and_set_aside(still, world):
    """Refused: it cannot have been applied, so a write goes elsewhere with its body; the instance is set aside."""
    world.failures["i1"] = world.http.ConnectError("refused")
    for number in range(6):
        answer = await world.client.put("/x", content=b"body-%d" % number)
        assert answer.status_code == 200
    assert world.bodies == [b"body-%d" % number for number in range(6)]
    assert Counter(name for name, _ in world.seen)["i1"] == 1
    assert states(world)["i1"] is HealthState.EJECTED


@pytest.mark.parametrize("error", ["ReadTimeout", "ReadError", "RemoteProtocolError", "WriteError"])
async def test_a_write_that_may_have_been_applied_is_never_sent_again(world, error):
    """Its outcome is unknown: the error is the caller's, who knows whether a repeat is harmless."""
    for i in range(3):
        world.failures[f"i{i}"] = getattr(world.http, error)("gone")
    with pytest.raises(getattr(world.http, error)):
        await world.client.put("/x", content=b"1")
    assert len(world.seen) == 1
    assert states(world)[world.seen[0][0]] is HealthState.EJECTED


@pytest.mark.parametrize("error", ["ReadTimeout", "ReadError"])
async def test_a_read_is_tried_elsewhere(world, error):
    """A read applies nothing: it goes to another instance, and the one that failed is set aside."""
    world.failures["i0"] = world.failures["i1"] = getattr(world.http, error)("gone")
    answers = [await world.client.get("/x") for _ in range(4)]
    assert {answer.text for answer in answers} == {"i2:/x?"}
    assert states(world)["i0"] is states(world)["i1"] is HealthState.EJECTED
    assert max(answer.extensions["synod"]["attempts"] for answer in answers) > 1


async def test_a_post_that_only_reads_can_say_so(world):
    """`extensions={"synod": {"read": True}}` declares what the method does not."""
    world.failures["i0"] = world.failures["i1"] = world.http.ReadTimeout("gone")
    for _ in range(3):
        answer = await world.client.post("/search", content=b"q", extensions={"synod": {"read": True}})
        assert answer.text == "i2:/search?"


async def test_reads_are_tried_three_times_and_no_more(world):
    """A poisonous request must not walk through every instance."""
    for i in range(3):
        world.failures[f"i{i}"] = world.http.ReadTimeout("gone")
    with pytest.raises(world.http.ReadTimeout):
        await world.client.get("/x")
    assert len(world.seen) == 3


async def test_nobody_there_is_a_connect_error(world):
    """Nothing was sent: the library's own error for that, with the reason."""
    for i in range(3):
        world.failures[f"i{i}"] = world.http.ConnectError("refused")
    with pytest.raises(world.http.ConnectError, match="refused"):
        await world.client.put("/x")
    with pytest.raises(world.http.ConnectError, match="no instance of the service is registered"):
        await world.client.get("synod://nosuchservice/x")


async def test_a_4xx_is_an_answer_and_five_5xx_set_aside(world):
    """The application's refusals say nothing about the instance; its failures in a row do."""
    world.failures["i0"] = 423
    for _ in range(30):
        await world.client.get("/x")
    assert states(world)["i0"] is HealthState.HEALTHY
    world.failures["i0"] = 500
    for _ in range(15):
        await world.client.get("/x")
    assert states(world)["i0"] is HealthState.EJECTED


async def test_in_flight_ends_with_the_stream_and_not_with_the_headers(world):
    """A long body is load: it counts until the response is closed, read to its end or not."""
    async with world.client.stream("GET", "/x"):
        assert sum(line.in_flight for line in world.balancer.statistics()) == 1
    assert sum(line.in_flight for line in world.balancer.statistics()) == 0


async def test_a_body_that_breaks_sets_its_instance_aside(world):
    """After good headers the connection goes: never sent again, since the caller has seen half of an answer."""
    world.breaks = world.http.ReadError("gone")
    with pytest.raises(world.http.ReadError):
        await world.client.get("/x")
    assert len(world.seen) == 1
    assert states(world)[world.seen[0][0]] is HealthState.EJECTED
    assert [line.in_flight for line in world.balancer.statistics()] == [0, 0, 0]


async def test_a_cancelled_request_leaves_nothing_in_flight(world):
    """Callers give up: the count must not leak, and the instance is not to blame."""
    world.hang = asyncio.Event()
    task = asyncio.ensure_future(world.client.get("/x"))
    await wait_until(lambda: world.seen, "the request")
    assert sum(line.in_flight for line in world.balancer.statistics()) == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [line.in_flight for line in world.balancer.statistics()] == [0, 0, 0]
    assert set(states(world).values()) == {HealthState.HEALTHY}


async def test_draining_instances_get_nothing_new(world):
    """Weight 0 in the entry, and the requests go elsewhere."""
    await world.registrations[0].drain()
    await wait_until(lambda: world.balancer.statistics()[0].endpoint.weight == 0, "the drain")
    for _ in range(10):
        await world.client.get("/x")
    assert Counter(name for name, _ in world.seen) == {"i1": 5, "i2": 5}


async def test_reports_reach_the_policy(http, cell, unique):
    """The load header of an answer is what `weighted` reckons with."""
    async with (
        Registration(cell, unique, "http://a:80", instance="a"),
        Registration(cell, unique, "http://b:80", instance="b"),
    ):

        async def answer(request):
            rate = 300 if request.url.host == "a" else 100
            return http.Response(200, headers={LOAD_HEADER: f"TEXT cpu_utilization=0.5, rps_fractional={rate}"})

        transport = Transport(cell, service=unique, policy="weighted", http=http, inner=http.MockTransport(answer))
        async with http.AsyncClient(transport=transport, base_url="http://whatever") as client:
            for _ in range(4):
                await client.get("/")
            rule = (await transport.balancer(unique)).rule
            assert {name: m._reported for name, m in rule._measured.items()} == {"a": 600.0, "b": 200.0}


async def test_wrong_names_are_told_at_once(cell):
    """A policy that does not exist is the user's mistake, at construction and not at the first request."""
    with pytest.raises(UserError, match="no policy 'fastest'"):
        Transport(cell, policy="fastest")


def test_without_an_http_library_the_error_says_what_to_install(monkeypatch, cell):
    """One sentence, and what next."""

    def missing(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(UserError, match=r"install synod\[http\]"):
        Transport(cell)
