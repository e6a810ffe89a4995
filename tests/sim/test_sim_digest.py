"""A replica whose memory says something else than its peers' stops with a report; the others go on."""

from __future__ import annotations

import pytest

from synod.base import MILLISECOND, SECOND
from synod.sim import Plan, World
from synod.sim._machine import Machine
from synod.sim._oracles import Oracles  # a test of the simulator may open its machines
from synod.wire import PERM_ADMIN, PERM_ALL


@pytest.mark.parametrize(("seed", "what"), [(21, "version"), (22, "version"), (21, "acl")])
def test_altered_memory_stops_that_replica_and_no_other(seed: int, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The report names the slot, its own digest and the quorum's; from its disk, which is sound, it comes back."""
    said: list[tuple[int, str]] = []

    def heard(self: Machine, reason: str) -> None:
        said.append((self.id, reason))
        self.kill(power_cut=False)

    monkeypatch.setattr(Machine, "_stopped", heard)
    # The simulator's own eye would see the difference at the next slot; here the replicas are to find it.
    monkeypatch.setattr(Oracles, "holds", lambda *_: None)
    world = World(seed, Plan.calm(replicas=3, clients=3))
    world.begin()
    world.run(world.now + 3 * SECOND)
    leader = next(m for m in world.machines.values() if m.replica and m.replica.paxos.role == "leader")
    odd = next(m for m in world.machines.values() if m is not leader)
    path = next(path for path in odd.replica.tree.nodes if path.startswith(b"/r"))
    if what == "version":
        odd.replica.tree.nodes[path].version ^= 1 << 20
    else:  # everything that clients do goes on: only who may change the list is another one
        odd.replica.tree.nodes[path].acl = odd.replica.tree.share_acl(((PERM_ALL & ~PERM_ADMIN, b"world", b"anyone"),))
    for _ in range(200):
        world.run(world.now + 100 * MILLISECOND)
        # What is never written again is never hashed again; clients write this one all the time.
        leader.replica._log_digest()
        leader.drain()
        if said:
            break
    assert [who for who, _ in said] == [odd.id]
    digests = {m.replica.tree.digest().to_bytes(16, "big").hex() for m in world.machines.values() if m is not odd}
    assert len(digests) == 1
    assert "the state of this replica at slot " in said[0][1]
    assert "a quorum of the cell has " in said[0][1]
    odd.start()
    world.heal()
    world.demand_progress()
    assert len(said) == 1
