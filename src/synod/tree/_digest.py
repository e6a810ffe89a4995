"""The digest of the state: equal logs must give equal numbers on every replica.

The digest is a sum modulo 2**128 of one blake2b-128 per znode, per session and for the rest, so that it does
not depend on an order and a change costs one hash. It is taken at a *freeze*: what changed since the freeze
before is set aside and hashed in small steps while new batches are applied; whoever is about to change a
frozen entity hashes it first (`touched`). So the number does not depend on how the steps fall.

Eras: the state counts up at every freeze. An entity whose era is not older than the last freeze has changed
since; one whose era lies between the last two freezes is in the frozen set.
"""

from __future__ import annotations

import hashlib
from typing import Final

from ._session import Session
from ._znode import Znode

Entity = Znode | Session

FROZEN_LEFT_MAX: Final = 1_000
"""A freeze finishes the one before it at once: 1,000 hashes take some two milliseconds, on all replicas together."""

MODULUS_MASK: Final = (1 << 128) - 1

PERSON_ZNODE: Final = b"znode"
PERSON_SESSION: Final = b"session"
PERSON_HEAD: Final = b"head"


def hash_of(record: bytes, kind: bytes) -> int:
    """What one record adds to the digest. The kind keeps a session from standing for a znode."""
    return int.from_bytes(hashlib.blake2b(record, digest_size=16, person=kind).digest(), "big")


def entity_hash(entity: Entity) -> int:
    """What an entity adds to the digest as it is now."""
    if isinstance(entity, Znode):
        return hash_of(entity.record(), PERSON_ZNODE)
    return hash_of(entity.record(), PERSON_SESSION)


class Digest:
    """The running sum, and the freeze that is being hashed while `pending`.

    `value` and `slot` are those of the last freeze that is fully hashed.

    Invariant: `_dirty` has every entity whose `era` is at least `_freeze_era`, and every one that was
    deleted since; `_frozen` is what is left to do.
    """

    __slots__ = (
        "_dirty",
        "_freeze_before",
        "_freeze_era",
        "_frozen",
        "_head",
        "_slot",
        "_sum",
        "pending",
        "slot",
        "value",
    )

    def __init__(self) -> None:
        self.value = 0
        self.slot = 0
        self.pending = False
        self._sum = 0
        self._dirty: list[Entity] = []
        self._frozen: list[Entity] = []
        self._freeze_era = 0
        self._freeze_before = 0
        self._head = 0
        self._slot = 0

    def added(self, entity: Entity) -> None:
        """An entity came into being in the present era."""
        self._dirty.append(entity)

    def touched(self, entity: Entity) -> None:
        """An entity of an older era is about to change: hash it first if the freeze still needs it."""
        era = entity.era
        if era < self._freeze_era:
            if era >= self._freeze_before and self.pending:
                self._settle(entity)
            self._dirty.append(entity)

    def freeze(self, slot: int, head: bytes, era: int) -> None:
        """Set aside what changed up to this slot. `era` begins now; `head` is what is no entity."""
        self.step(len(self._frozen))
        self._frozen, self._dirty = self._dirty, []
        self._freeze_before, self._freeze_era = self._freeze_era, era
        self._head = hash_of(head, PERSON_HEAD)
        self._slot = slot
        self.pending = True

    @property
    def frozen_slot(self) -> int:
        """The slot of the last freeze."""
        return self._slot

    @property
    def crowded(self) -> bool:
        """Whether another freeze now would have to hash too much at once."""
        return len(self._frozen) > FROZEN_LEFT_MAX

    def let_go(self) -> tuple[list[Entity], list[Entity]]:
        """The lists that keep entities alive, for whoever takes the whole state apart."""
        return self._dirty, self._frozen

    def step(self, budget: int) -> bool:
        """Hash up to `budget` frozen entities. True while there is more to do."""
        if not self.pending:
            return False
        frozen = self._frozen
        # Taken off one by one: to let go of a list of a million at its end would hold up everything.
        for _ in range(min(len(frozen), budget)):
            entity = frozen.pop()
            era = entity.era
            if (era if era >= 0 else -1 - era) < self._freeze_era:
                self._settle(entity)
        if frozen:
            return True
        self.value = (self._sum + self._head) & MODULUS_MASK
        self.slot = self._slot
        self.pending = False
        return False

    def _settle(self, entity: Entity) -> None:
        """Bring the sum up to date for one entity. Doing it twice does no harm."""
        new = entity_hash(entity) if entity.era >= 0 else 0
        self._sum = (self._sum + new - entity.hash) & MODULUS_MASK
        entity.hash = new
