"""Every operation that kazoo has, against Apache ZooKeeper and against a cell: the same test must pass on both."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
from interop_wire import CREATE, EXISTS, GET, PATIENCE_S, Closed, Reader, Wire, create, read
from kazoo.client import KazooClient
from kazoo.exceptions import (
    BadArgumentsError,
    BadVersionError,
    InvalidACLError,
    NoAuthError,
    NoChildrenForEphemeralsError,
    NodeExistsError,
    NoNodeError,
    NotEmptyError,
    RolledBackError,
    RuntimeInconsistency,
)
from kazoo.protocol.states import EventType, WatchedEvent
from kazoo.security import ACL, OPEN_ACL_UNSAFE, make_acl, make_digest_acl, make_digest_acl_credential

pytestmark = pytest.mark.slow

LIMIT = 0xFFFFF
"""Bytes of a request, by default: ZooKeeper's jute.maxbuffer."""


class Told:
    """A watch function that keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[WatchedEvent] = []
        self._told = threading.Event()

    def __call__(self, event: WatchedEvent) -> None:
        self.events.append(event)
        self._told.set()

    def wait(self) -> WatchedEvent:
        assert self._told.wait(PATIENCE_S), "the watch did not fire"
        return self.events[0]


def test_a_znode_is_made_read_changed_and_deleted(zk: KazooClient) -> None:
    """The life of a znode, with every counter of its stat."""
    assert zk.create("/a", b"one") == "/a"
    value, made = zk.get("/a")
    assert (value, made.version, made.cversion, made.aversion, made.data_length) == (b"one", 0, 0, 0, 3)
    assert made.czxid == made.mzxid == made.pzxid
    assert made.ephemeralOwner == 0
    assert abs(made.ctime - time.time() * 1000) < 60_000
    changed = zk.set("/a", b"twice")
    assert (changed.version, changed.data_length, changed.czxid) == (1, 5, made.czxid)
    assert changed.mzxid > made.mzxid
    assert changed.pzxid == made.pzxid
    zk.create("/a/child")
    parent = zk.exists("/a")
    assert (parent.cversion, parent.numChildren, parent.version) == (1, 1, 1)
    assert parent.pzxid > changed.mzxid
    zk.delete("/a/child")
    assert (zk.exists("/a").cversion, zk.exists("/a").numChildren) == (2, 0)
    zk.delete("/a", version=1)
    assert zk.exists("/a") is None


def test_each_refusal_has_its_number(zk: KazooClient) -> None:
    """What a client program branches on."""
    zk.create("/a", b"")
    zk.create("/a/b", b"")
    with pytest.raises(NodeExistsError):
        zk.create("/a", b"")
    with pytest.raises(NoNodeError):
        zk.create("/none/b", b"")
    with pytest.raises(NoNodeError):
        zk.get("/none")
    with pytest.raises(NoNodeError):
        zk.set("/none", b"")
    with pytest.raises(NoNodeError):
        zk.delete("/none")
    with pytest.raises(NoNodeError):
        zk.get_children("/none")
    with pytest.raises(BadVersionError):
        zk.set("/a", b"", version=7)
    with pytest.raises(BadVersionError):
        zk.delete("/a/b", version=7)
    with pytest.raises(NotEmptyError):
        zk.delete("/a")
    zk.create("/e", ephemeral=True)
    with pytest.raises(NoChildrenForEphemeralsError):
        zk.create("/e/child")


def test_a_path_and_a_list_are_checked_by_the_server(wire: Callable[..., Wire], root: str) -> None:
    """kazoo cleans both up, other clients do not."""
    bare = wire()
    assert bare.ask(CREATE, create(root)).err == 0
    for path in ("a", f"{root}/", f"/{root}", "/.", "/..", f"{root}/.", "/\0", "/\x01", "/\ud7ff\uf8ff"):
        assert bare.ask(CREATE, create(path)).err == -8, path
    assert bare.ask(CREATE, create(f"{root}/x", b"", 0, ())).err == -114


def test_sequence_names_count_what_was_ever_made(zk: KazooClient) -> None:
    """The suffix is the parent's count of created children: ten digits, never used twice."""
    zk.create("/q")
    assert zk.create("/q/n-", sequence=True) == "/q/n-0000000000"
    assert zk.create("/q/plain") == "/q/plain"
    assert zk.create("/q/n-", sequence=True) == "/q/n-0000000002"
    zk.delete("/q/n-0000000002")
    assert zk.create("/q/n-", sequence=True, ephemeral=True) == "/q/n-0000000003"
    assert zk.create("/q/", sequence=True) == "/q/0000000004"


def test_create2_and_children2_give_the_stat_in_the_same_reply(zk: KazooClient) -> None:
    """Two operations of version 3.5."""
    path, stat = zk.create("/a", b"value", include_data=True)
    assert (path, stat.data_length, stat.version) == ("/a", 5, 0)
    zk.create("/a/x")
    names, stat = zk.get_children("/a", include_data=True)
    assert (names, stat.numChildren, stat.cversion) == (["x"], 1, 1)


def test_paths_and_names_may_be_any_text(zk: KazooClient) -> None:
    """UTF-8 outside of the control and private characters."""
    for name in ("ünïcødé", "日本語", "a b", "x" * 200, "per%cent", "-", "...", "a.b"):
        zk.create(f"/{name}", name.encode())
        assert zk.get(f"/{name}")[0] == name.encode()
    assert len(zk.get_children("/")) == 8


@pytest.mark.parametrize("size", [0, 1, 511, 4096, 65_536, 1_000_000])
def test_a_value_comes_back_whole(zk: KazooClient, size: int) -> None:
    """Up to near the limit, through a replica that is not asked to look inside."""
    value = bytes(i % 251 for i in range(size))
    zk.create("/v", value)
    assert zk.get("/v")[0] == value
    zk.set("/v", value[::-1])
    assert zk.get("/v")[0] == value[::-1]


def test_a_request_over_the_limit_costs_only_its_connection(wire: Callable[..., Wire]) -> None:
    """The server closes that connection, keeps the session, and serves everybody else."""
    other = wire()
    bare = wire()
    with pytest.raises((Closed, ConnectionError)):
        bare.ask(CREATE, create("/too-large", bytes(LIMIT + 10)))
    assert other.ask(EXISTS, read("/too-large")).err == -101
    again = wire(session=bare.session, password=bare.password)
    assert again.session == bare.session


def test_a_null_value_is_no_empty_value(wire: Callable[..., Wire], root: str) -> None:
    """Java clients create with null; both are of length 0."""
    bare = wire()
    assert bare.ask(CREATE, create(root, None)).err == 0
    got = Reader(bare.ask(GET, read(root)).body)
    assert got.text() in (None, b"")
    assert got.stat()["data_length"] == 0


def test_watches_fire_once_and_say_what_happened(zk: KazooClient) -> None:
    """One-shot watches on data, on existence and on children, from the operation's own client."""
    born, changed, children, died = Told(), Told(), Told(), Told()
    assert zk.exists("/w", watch=born) is None
    zk.create("/w", b"1")
    assert (born.wait().type, born.wait().path) == (EventType.CREATED, "/w")
    zk.get("/w", watch=changed)
    zk.set("/w", b"2")
    assert changed.wait().type == EventType.CHANGED
    zk.get_children("/w", watch=children)
    zk.create("/w/c")
    assert (children.wait().type, children.wait().path) == (EventType.CHILD, "/w")
    zk.delete("/w/c")
    zk.get("/w", watch=died)
    zk.delete("/w")
    assert died.wait().type == EventType.DELETED
    zk.create("/w", b"3")
    zk.sync("/w")
    assert [len(told.events) for told in (born, changed, children, died)] == [1, 1, 1, 1]


def test_watches_hear_of_what_others_do_at_other_replicas(connect: Callable[..., KazooClient]) -> None:
    """A write through one server fires a watch at each other one."""
    writer = connect(replica=0)
    told = []
    for replica in (0, 1, 2):
        client = connect(replica=replica)
        client.sync("/")
        told.append(Told())
        assert client.exists("/w", watch=told[-1]) is None
    writer.create("/w")
    assert [one.wait().type for one in told] == [EventType.CREATED] * 3


def test_data_and_children_watches_follow(zk: KazooClient) -> None:
    """kazoo's DataWatch and ChildrenWatch set their watch again and again."""
    values, names = [], []
    seen = threading.Condition()

    @zk.DataWatch("/d")
    def on_data(value: bytes | None, _stat: object) -> None:
        with seen:
            values.append(value)
            seen.notify_all()

    zk.create("/d", b"0")

    @zk.ChildrenWatch("/d")
    def on_children(children: list[str]) -> None:
        with seen:
            names.append(sorted(children))
            seen.notify_all()

    for i in range(1, 5):
        zk.set("/d", b"%d" % i)
        with seen:
            assert seen.wait_for(lambda i=i: values[-1:] == [b"%d" % i], PATIENCE_S), values
        zk.create(f"/d/{i}")
        with seen:
            assert seen.wait_for(lambda i=i: names[-1:] == [[str(n) for n in range(1, i + 1)]], PATIENCE_S), names
    zk.delete("/d", recursive=True)
    with seen:
        assert seen.wait_for(lambda: values[-1] is None, PATIENCE_S)


def test_a_transaction_is_all_or_nothing(zk: KazooClient) -> None:
    """Also for an operation that rests on one before it in the same transaction."""
    zk.create("/a", b"")
    good = zk.transaction()
    good.create("/a/b", b"x")
    good.create("/a/b/c", b"", sequence=True)
    good.set_data("/a", b"y")
    good.check("/a", version=1)
    good.delete("/a/b/c0000000000")
    results = good.commit()
    assert results[:2] == ["/a/b", "/a/b/c0000000000"]
    assert results[2].version == 1
    assert results[3:] == [True, True]
    assert zk.get_children("/a/b") == []

    bad = zk.transaction()
    bad.create("/a/new", b"")
    bad.check("/a", version=9)
    bad.delete("/a/b")
    results = bad.commit()
    assert [type(result) for result in results] == [RolledBackError, BadVersionError, RuntimeInconsistency]
    assert zk.exists("/a/new") is None
    assert zk.exists("/a/b") is not None


def test_a_transaction_takes_one_zxid(zk: KazooClient) -> None:
    """What it made was made at one instant."""
    transaction = zk.transaction()
    for i in range(5):
        transaction.create(f"/n{i}", b"")
    transaction.commit()
    assert len({zk.exists(f"/n{i}").czxid for i in range(5)}) == 1


def test_a_failed_transaction_fires_no_watch(zk: KazooClient) -> None:
    """Nothing happened, so nobody is told."""
    told = Told()
    zk.exists("/a", watch=told)
    bad = zk.transaction()
    bad.create("/a", b"")
    bad.check("/none", version=0)
    bad.commit()
    zk.sync("/")
    assert told.events == []
    zk.create("/a")
    told.wait()


def test_access_lists_are_kept_and_held(connect: Callable[..., KazooClient]) -> None:
    """Digest and world, per permission; a refusal is NoAuth, not NoNode."""
    owner = connect(auth_data=[("digest", "joe:secret")])
    stranger = connect()
    mine = make_digest_acl("joe", "secret", all=True)
    owner.create("/mine", b"x", acl=[mine])
    stranger.sync("/mine")
    with pytest.raises(NoAuthError):
        stranger.get("/mine")
    with pytest.raises(NoAuthError):
        stranger.set("/mine", b"y")
    with pytest.raises(NoAuthError):
        stranger.create("/mine/child")
    assert owner.get("/mine")[0] == b"x"
    readable = [mine, make_acl("world", "anyone", read=True)]
    assert owner.set_acls("/mine", readable).aversion == 1
    stranger.sync("/mine")
    assert stranger.get("/mine")[0] == b"x"
    with pytest.raises(NoAuthError):
        stranger.set("/mine", b"y")
    listed, stat = owner.get_acls("/mine")
    assert sorted(listed) == sorted(readable)
    assert stat.aversion == 1
    with pytest.raises(BadVersionError):
        owner.set_acls("/mine", readable, version=7)
    stranger.add_auth("digest", "joe:secret")
    assert stranger.set("/mine", b"y").version == 1


def test_auth_stands_for_whoever_creates(connect: Callable[..., KazooClient]) -> None:
    """The scheme `auth` becomes the identities of the session; without any it is an invalid list."""
    owner = connect(auth_data=[("digest", "joe:secret")])
    owner.create("/mine", acl=[ACL(31, make_acl("auth", "", all=True).id)])
    listed, _ = owner.get_acls("/mine")
    assert [(entry.id.scheme, entry.id.id) for entry in listed] == [
        ("digest", make_digest_acl_credential("joe", "secret"))
    ]
    nobody = connect()
    with pytest.raises(InvalidACLError):
        nobody.create("/x", acl=[ACL(31, make_acl("auth", "", all=True).id)])


def test_the_open_list_is_what_it_says(zk: KazooClient) -> None:
    """Without an access list everybody may do everything."""
    zk.create("/open")
    assert zk.get_acls("/open")[0] == OPEN_ACL_UNSAFE


def test_sync_then_read_sees_what_was_acknowledged_elsewhere(connect: Callable[..., KazooClient]) -> None:
    """A write acknowledged at one server is read at another one after a sync."""
    writer, reader = connect(replica=0), connect(replica=1)
    writer.create("/s", b"0")
    for i in range(1, 50):
        writer.set("/s", b"%d" % i)
        assert reader.sync("/s").endswith("/s")
        assert reader.get("/s")[0] == b"%d" % i


def test_pipelined_requests_are_answered_in_order(zk: KazooClient) -> None:
    """A connection is a FIFO: reads see the writes before them, without waiting for any reply."""
    zk.create("/f", b"")
    pending = []
    for i in range(200):
        zk.set_async("/f", b"%d" % i)
        pending.append((b"%d" % i, zk.get_async("/f")))
    assert [(wanted, call.get(timeout=PATIENCE_S)[0]) for wanted, call in pending] == [
        (wanted, wanted) for wanted, _ in pending
    ]


def test_what_is_reserved_is_there(connect: Callable[..., KazooClient]) -> None:
    """/zookeeper and below; it cannot be deleted."""
    client = connect(chroot=False)
    assert set(client.get_children("/zookeeper")) == {"config", "quota"}
    assert "zookeeper" in client.get_children("/")
    for path in ("/", "/zookeeper"):
        with pytest.raises((BadArgumentsError, NotEmptyError)):
            client.delete(path)
