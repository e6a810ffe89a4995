"""Instances and those who look for them: entries that stand while the instance lives, and views that follow."""

from __future__ import annotations

import pytest
from service_world import client_of

from client.client_systems import expire, wait_until
from synod.balance import Endpoint
from synod.base import UserError
from synod.service import Discovery, Registration, service_path


def names(discovery: Discovery) -> list[str]:
    return [endpoint.name for endpoint in discovery.view]


async def test_a_view_follows_who_comes_drains_and_goes(hosts, unique):
    """Against a cell and against ZooKeeper: address, weight and zone arrive, a drain shows, the end too."""
    async with client_of(hosts) as cell, client_of(hosts) as other, Discovery(other, unique) as discovery:
        assert discovery.view.endpoints == ()
        async with Registration(cell, unique, "http://10.0.0.7:80", weight=30, zone="a") as one:
            await wait_until(lambda: discovery.view.endpoints, "the first instance")
            assert discovery.view.endpoints == (Endpoint("10.0.0.7%3A80", "http://10.0.0.7:80", 30, "a"),)
            async with Registration(cell, unique, "http://10.0.0.8:80", instance="b"):
                await wait_until(lambda: len(discovery.view) == 2, "the second instance")
                await one.drain()
                await wait_until(lambda: discovery.view.endpoints[0].weight == 0, "the drain")
            await wait_until(lambda: names(discovery) == ["10.0.0.7%3A80"], "the second instance's end")
        await wait_until(lambda: not names(discovery), "the end")


async def test_the_entry_goes_with_the_instance(hosts, unique):
    """Ephemeral: who dies without a word leaves no entry behind its session."""
    async with client_of(hosts) as other, Discovery(other, unique) as discovery:
        cell = client_of(hosts)
        started = await cell.__aenter__()
        registration = Registration(started, unique, "http://10.0.0.7:80")
        await registration.start()
        await wait_until(lambda: names(discovery), "the instance")
        await cell.__aexit__(None, None, None)
        await wait_until(lambda: not names(discovery), "its end")
        await registration.close()


async def test_a_new_session_registers_again_by_itself(hosts, unique):
    """The session expired behind its back: the entry is made again, owned by the new session, weight kept."""
    async with client_of(hosts) as cell, Registration(cell, unique, "http://10.0.0.7:80") as registration:
        await registration.set_weight(7)
        old = cell.session_id
        await expire(cell, hosts)

        async def entry_is_back():
            stat = await cell.exists(f"{service_path(unique)}/10.0.0.7%3A80")
            return stat is not None and stat.ephemeral_owner == cell.session_id

        await wait_until(entry_is_back, "the entry")
        assert cell.session_id != old
        value, _ = await cell.get(f"{service_path(unique)}/10.0.0.7%3A80")
        assert b'"weight":7' in value


async def test_an_instance_that_comes_back_replaces_what_its_old_session_left(cell, local_hosts, unique):
    """After a crash the old session still stands: the new process owns its entry at once, and the old one yields."""
    async with client_of(local_hosts) as ghost:
        old = Registration(ghost, unique, "http://10.0.0.7:80")
        await old.start()
        async with Registration(cell, unique, "http://10.0.0.7:80", weight=5):
            stat = await cell.exists(f"{service_path(unique)}/10.0.0.7%3A80")
            assert stat.ephemeral_owner == cell.session_id
            await wait_until(lambda: old.yielded, "the old one to yield")
            await old.close()
            assert await cell.exists(f"{service_path(unique)}/10.0.0.7%3A80") == stat


async def test_two_addresses_under_one_name_are_the_users_mistake(cell, local_hosts, unique):
    """Nothing is taken from a living instance of another address."""
    async with client_of(local_hosts) as other, Registration(other, unique, "http://10.0.0.7:80", instance="x"):
        registration = Registration(cell, unique, "http://10.0.0.8:80", instance="x")
        with pytest.raises(UserError, match=r"registered for http://10\.0\.0\.7:80"):
            await registration.start()


async def test_an_entry_that_describes_nothing_hides_no_other(cell, unique, caplog):
    """Another program's mistake below /services is ignored and said once."""
    async with Discovery(cell, unique) as discovery:
        for number, value in enumerate([b"", b"[]", b"{}", b"\xff", b'{"address": "x", "weight": -1}', b"null"]):
            await cell.create(f"{service_path(unique)}/bad{number}", value, makepath=True)
        async with Registration(cell, unique, "http://10.0.0.7:80"):
            await wait_until(lambda: len(discovery.view) == 1, "the good one")
    assert (
        len({record.getMessage() for record in caplog.records if "describes no instance" in record.getMessage()}) == 6
    )


@pytest.mark.parametrize("name", ["", ".", "a/b", "..", "x\n"])
def test_names_of_services_are_checked(name):
    """A service's name is one component of a path."""
    with pytest.raises(UserError, match="no name for a service"):
        service_path(name)
