"""Who is talked to, and whose word counts, while the members change."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from replica_alone import new_replica

from synod.base import SECOND, Ballot, Change, Configuration, Entry, Member, RemoteProtocolError
from synod.paxos import Prepare, Promise, TakeOver, decode
from synod.paxos import encode as encode_paxos
from synod.replica import Hello, Replica, ReplicaOptions, decode_message, encode_message
from synod.storage import Identity, MemoryFileSystem, Store, format_directory
from synod.tree import Tree

FIRST = Configuration("c" * 32, tuple(Member(i, f"127.0.0.1:{i}") for i in (1, 2, 3)))
GROWN = FIRST.added(4, "127.0.0.1:4")
PROMOTED = GROWN.promoted(4, 44)


class Host:
    """Replica 1, or another one, with a log that holds these changes, chosen; its disk is always at once durable."""

    def __init__(self, *steps: Configuration, id_: int = 1, incarnation: int = 1, disk: int = 0) -> None:
        fs = MemoryFileSystem()
        format_directory(fs, "/data", Identity(id_, incarnation, FIRST, disk))
        self.store = Store.open(fs, "/data", cell_id=FIRST.cell_id, replica_id=id_)
        before, entries = FIRST, [Entry(1, Ballot(1, 1), b"")]
        for after in steps:
            entries.append(Entry(len(entries) + 1, Ballot(1, 1), Change(after, before.digest(), bytes(16)).encode()))
            before = after
        if steps or id_ == 1:
            self.store.append(promised=Ballot(1, 1), chosen_mark=len(entries), entries=entries)
            self.store.sync()
            self.store.close()
            self.store = Store.open(fs, "/data", cell_id=FIRST.cell_id, replica_id=id_)
        self.replica = Replica(
            id=id_,
            configuration=FIRST,
            incarnation=incarnation,
            disk=disk,
            options=ReplicaOptions(),
            recovered=self.store.recovered,
            tree=Tree(configuration=FIRST.encode()),
            boot=self.store.boot,
            rng=random.Random(1),
            draw_secret=bytes,
            now=SECOND,
            wall_ms=0,
        )
        self.drain()

    def drain(self) -> list[tuple[int, bytes]]:
        """What it sends, when it has written what it wanted to."""
        sent: list[tuple[int, bytes]] = []
        while True:
            ready = self.replica.ready()
            sent += [(peer, data) for peer, data, _ in ready.messages]
            for write in ready.writes:
                self.replica.persisted(write.id, SECOND)
            if not ready.more and not ready.writes:
                return sent

    def meet(self, hello: Hello) -> None:
        self.replica.peer_connected(self.replica.check_hello(encode_message(hello)), SECOND)
        self.drain()

    def refuses(self, hello: Hello) -> str:
        with pytest.raises(RemoteProtocolError) as refusal:
            self.replica.check_hello(encode_message(hello))
        return str(refusal.value)


def hello(id_: int, incarnation: int = 1, *, disk: int = 0, changes: int = 0) -> Hello:
    return Hello(
        1,
        1,
        bytes.fromhex(FIRST.cell_id),
        FIRST.digest(),
        id_,
        incarnation,
        ((incarnation - 1) << 32) + 1,
        1,
        1,
        Ballot(1, 1),
        1,
        disk,
        changes,
    )


def test_the_vote_of_another_incarnation_counts_for_nothing() -> None:
    """Its disk is empty: what the earlier one had promised or accepted it does not know."""
    for incarnation, leads in ((1, True), (2, False)):
        host = Host()
        host.meet(hello(2, incarnation, changes=incarnation - 1))
        host.replica.step(2, encode_paxos(TakeOver(Ballot(1, 1))), SECOND)
        ballot = next(m.ballot for _, data in host.drain() if isinstance(m := decode(data), Prepare))
        host.replica.step(2, encode_paxos(Promise(ballot, 2, 1, 0, (), ())), SECOND)
        host.drain()
        assert (host.replica.paxos.role == "leader") is leads


def test_who_knows_later_members_is_listened_to() -> None:
    """A replica that was away for long may know nobody of those who are the cell now."""
    host = Host()
    host.meet(hello(9, changes=5))
    host.meet(hello(3, 2, changes=5))
    assert "`synod member add 9 ADDRESS` makes it one" in host.refuses(hello(9))


def test_who_left_is_told_so() -> None:
    """Removed, or replaced by a later incarnation: it does not come back."""
    assert "was removed from this cell" in Host(FIRST.removed(3)).refuses(hello(3, changes=1))
    assert "another disk has taken its place" in Host(FIRST.replaced(3, "127.0.0.1:3")).refuses(hello(3))


def test_another_disk_than_the_promoted_one_is_refused() -> None:
    """By everybody who knows the members, whether or not it ever met the first disk."""
    host = Host(GROWN, PROMOTED)
    assert "`synod member replace 4` re-admits it" in host.refuses(hello(4, disk=45, changes=2))
    host.meet(hello(4, disk=44))


def test_a_replica_does_not_call_itself() -> None:
    """Two configs with one id, or an address that is one's own."""
    assert "was called by itself" in Host().refuses(hello(1))


def test_replicas_that_were_made_from_different_backups_refuse_each_other() -> None:
    """Or one of them from none: their logs begin with other states, whatever else their configurations share."""
    _, it = new_replica(replace(FIRST, backup="a0" * 16), SECOND)
    for backup in ("b1" * 16, ""):
        other = replace(hello(2), configuration=replace(FIRST, backup=backup).digest())
        with pytest.raises(RemoteProtocolError, match="another configuration"):
            it.check_hello(encode_message(other))
    it.check_hello(encode_message(replace(hello(2), configuration=replace(FIRST, backup="a0" * 16).digest())))


def test_who_joins_lets_in_everybody_of_its_cell() -> None:
    """It knows the first members only, and perhaps none of them is left."""
    host = Host(id_=4, disk=44)
    for id_ in (1, 7, 9):
        host.meet(hello(id_, changes=8))
    assert host.replica.role == "learner"
    assert not host.replica.paxos.votes


def test_the_hello_shows_what_is_known_of_changes_even_if_it_is_not_chosen() -> None:
    """A first member with an empty disk must hear of a change that may be chosen."""
    shown = decode_message(Host(GROWN).replica.hello())
    assert isinstance(shown, Hello)
    assert (shown.changes, shown.incarnation, shown.configuration) == (1, 1, FIRST.digest())


def test_a_promoted_replica_that_restarts_votes_with_its_own_disk_only() -> None:
    """The members are known from the log, before anybody is met."""
    assert Host(GROWN, PROMOTED, id_=4, disk=44).replica.paxos.votes
    assert not Host(GROWN, PROMOTED, id_=4, disk=45).replica.paxos.votes


def test_boot_counts_of_a_later_incarnation_are_higher() -> None:
    """Else its requests would be taken for repeats of those of the earlier one."""
    assert Host(id_=4, incarnation=2).store.boot > Host(id_=4, incarnation=1).store.boot + 1_000_000


def test_whose_word_counts_is_told_anew_when_a_disk_or_the_members_change() -> None:
    """What was told before is remembered, so that it must be forgotten at the right moments."""
    chance = random.Random(5)
    members = (FIRST, GROWN, PROMOTED, FIRST.removed(3), FIRST.replaced(3, "127.0.0.1:3"))
    host = Host()
    met: set[int] = set()
    told: set[tuple[int, bool]] = set()
    for _ in range(400):
        peer, incarnation = chance.choice((2, 3, 4)), chance.choice((1, 2))
        if chance.random() < 0.2:
            host.replica.paxos._learner.configuration = chance.choice(members)  # as when a change is chosen
            host.drain()
        elif chance.random() < 0.2:
            host.replica.peer_connected(hello(peer, incarnation), SECOND)
            met.add(peer)
        elif peer in met:
            counts = host.replica._counts(peer)
            assert counts == host.replica.configuration.holds(peer, host.replica._hellos[peer].incarnation)
            told.add((peer, counts))
    assert told == {(2, True), (2, False), (3, True), (3, False), (4, True), (4, False)}
