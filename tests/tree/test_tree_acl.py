"""ACLs: who may do what, checked when the request is applied with what the session has proved."""

from __future__ import annotations

import pytest
from tree_world import (
    OPEN,
    World,
    acl_bytes,
    children,
    children2,
    create,
    delete,
    exists,
    get_acl,
    get_data,
    multi,
    op_check,
    read,
    set_acl,
    set_data,
)

from synod.tree import Tree
from synod.tree._acl import _network, permits

READ, WRITE, CREATE, DELETE, ADMIN = 1, 2, 4, 8, 16


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def joe(world: World) -> int:
    session = world.connect(1)
    world.auth(session, b"digest", b"joe:hash")
    world.sink.take(1)
    return session


@pytest.fixture
def eve(world: World) -> int:
    return world.connect(2)


def test_each_permission_guards_its_operations(world: World, joe: int, eve: int) -> None:
    requests = {
        READ: [
            (get_data(1, b"/p/c"), False),
            (exists(1, b"/p/c"), False),
            (children(1, b"/p/c"), False),
            (children2(1, b"/p/c"), False),
            (read(1, 104, b"/p/c", None), False),
        ],
        WRITE: [(set_data(1, b"/p/c", b"x"), True)],
        CREATE: [(create(1, b"/p/c/d"), True)],
        DELETE: [(delete(1, b"/p/c/d"), True)],
        ADMIN: [(set_acl(1, b"/p/c", [(31, b"world", b"anyone")]), True)],
    }
    world.write(joe, create(1, b"/p"), create(2, b"/p/c"))
    for perm, guarded in requests.items():
        for request, is_write in guarded:
            world.write(
                joe, set_acl(1, b"/p/c", [(31 - perm, b"world", b"anyone"), (perm | 16, b"digest", b"joe:hash")])
            )
            do = world.one if is_write else world.read
            if perm == ADMIN:
                world.write(joe, set_acl(1, b"/p/c", [(15, b"world", b"anyone"), (16, b"digest", b"joe:hash")]))
            if perm == DELETE:
                world.write(joe, create(1, b"/p/c/d"))
            assert do(eve, request).err == -102
            assert do(joe, request).err == 0
            if perm == CREATE:
                world.write(joe, delete(1, b"/p/c/d"))


def test_a_check_needs_read(world: World, joe: int, eve: int) -> None:
    world.write(joe, create(1, b"/s", acl=[(31, b"auth", b"")]))
    assert world.one(eve, multi(1, op_check(b"/s", -1))).results()[0][1] == -102
    assert world.one(joe, multi(1, op_check(b"/s", -1))).results()[0][1] == 0


def test_auth_becomes_the_callers_identities(world: World, joe: int, eve: int) -> None:
    world.auth(joe, b"ip", b"10.1.2.3")
    world.write(joe, create(1, b"/s", acl=[(31, b"auth", b""), (1, b"world", b"anyone")]))
    assert world.read(joe, get_acl(1, b"/s")).body[:-68] == acl_bytes(
        [(31, b"digest", b"joe:hash"), (1, b"world", b"anyone")]
    )
    assert world.one(eve, create(1, b"/t", acl=[(31, b"auth", b"")])).err == -114


def test_get_acl_masks_hashes_without_admin(world: World, joe: int, eve: int) -> None:
    world.write(joe, create(1, b"/s", acl=[(31, b"auth", b""), (1, b"world", b"anyone")]))
    assert world.read(eve, get_acl(1, b"/s")).body[:-68] == acl_bytes(
        [(31, b"digest", b"joe:x"), (1, b"world", b"anyone")]
    )
    world.write(joe, create(1, b"/t", acl=[(31, b"auth", b"")]))
    assert world.read(eve, get_acl(1, b"/t")).err == -102
    assert world.read(eve, get_acl(1, b"/none")).err == -101


@pytest.mark.parametrize(
    ("acl", "code"),
    [
        ([], -114),
        ([(31, b"world", b"nobody")], -114),
        ([(31, b"unheard", b"of")], -114),
        ([(31, b"digest", b"nocolon")], -114),
        ([(31, b"digest", b"a:b:c")], -114),
        ([(31, b"digest", b"a:\xff")], -114),
        ([(31, b"digest", b"a:b")], 0),
        ([(31, b"ip", b"10.0.0.0/33")], -114),
        ([(31, b"ip", b"10.0.0")], -114),
        ([(31, b"ip", b"10.0.0.256")], -114),
        ([(31, b"ip", b"10.0.0.0/8")], 0),
        ([(31, b"ip", b"10.0.0.1")], 0),
        ([(31, None, b"x")], -114),
        ([(31, b"world", None)], -114),
    ],
)
def test_which_acls_are_valid(world: World, joe: int, acl: list, code: int) -> None:
    assert world.one(joe, create(1, b"/x", acl=acl)).err == code


def test_duplicates_are_dropped(world: World, joe: int) -> None:
    world.write(joe, create(1, b"/x", acl=OPEN + OPEN))
    assert world.read(joe, get_acl(1, b"/x")).body[:-68] == acl_bytes(OPEN)


def test_ip_matches_by_network(world: World, eve: int) -> None:
    world.auth(eve, b"ip", b"10.1.2.3")
    for network, may in (
        (b"10.1.2.3", True),
        (b"10.0.0.0/8", True),
        (b"10.1.3.0/23", True),
        (b"10.1.3.0/24", False),
        (b"0.0.0.0/0", True),
        (b"11.1.2.3", False),
    ):
        world.write(eve, create(1, b"/x"), set_acl(2, b"/x", [(1, b"ip", network)]))
        assert (world.read(eve, get_data(3, b"/x")).err == 0) == may
        assert world.one(eve, delete(4, b"/x")).err == 0
    assert _network(b"1.2.3.4/5/6") is None
    assert _network(b"+1.2.3.4") is None


def test_super_may_everything(world: World, joe: int, eve: int) -> None:
    world.write(joe, create(1, b"/s", acl=[(1, b"auth", b"")]))
    assert world.one(eve, set_data(2, b"/s", b"x")).err == -102
    world.auth(eve, b"super", b"")
    assert world.one(eve, set_data(2, b"/s", b"x")).err == 0
    world.sink.take(2)


def test_a_cached_reply_is_not_served_past_the_acl(world: World, joe: int, eve: int) -> None:
    world.write(joe, create(1, b"/s", b"secret", acl=[(31, b"auth", b"")]))
    assert world.read(joe, get_data(2, b"/s")).field() == b"secret"
    assert world.read(eve, get_data(3, b"/s")).err == -102
    assert world.read(eve, children(3, b"/s")).err == -102


def test_a_closed_acl_takes_effect_for_cached_replies_at_once(world: World, joe: int, eve: int) -> None:
    world.write(joe, create(1, b"/s", b"secret"))
    assert world.read(eve, get_data(3, b"/s")).err == 0
    world.write(joe, set_acl(2, b"/s", [(31, b"auth", b"")]))
    assert world.read(eve, get_data(3, b"/s")).err == -102


def test_equal_acls_are_one_object(world: World, joe: int) -> None:
    for name in (b"/a", b"/b"):
        world.write(joe, create(1, name, acl=[(3, b"digest", b"joe:hash")]))
    nodes = world.tree.nodes
    assert nodes[b"/a"].acl is nodes[b"/b"].acl
    assert Tree().nodes[b"/"].acl is nodes[b"/"].acl
    assert permits(nodes[b"/a"].acl, WRITE, [(b"digest", b"joe:hash")])
    assert not permits(nodes[b"/a"].acl, CREATE, [(b"digest", b"joe:hash")])


def test_too_many_entries_are_malformed(world: World, joe: int) -> None:
    acl = [(1, b"digest", b"u%d:h" % n) for n in range(257)]
    assert world.one(joe, create(1, b"/x", acl=acl)).err == -5
    assert world.one(joe, create(1, b"/x", acl=acl[:256])).err == 0
