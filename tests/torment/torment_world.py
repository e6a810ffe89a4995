"""A perfect cell that runs in no time, and the histories that `synod torment` would write of it.

Everything takes effect at one moment between its call and its answer, so every promise holds, whatever the seed. A
test takes such a history, plants one wrong thing, and sees whether the judge finds it.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Generator
from typing import Any

Record = dict[str, Any]
Steps = Generator[int, None, None]
"""A client: it yields the microseconds until it goes on."""

REGISTERS = ("register-0", "register-1")
REPLICAS = (1, 2, 3)
UNKNOWN = 0.08
"""The share of attempts whose answer is lost."""


class World:
    """Runs the clients; `records` is their history."""

    def __init__(self, seed: int, turns: int = 25) -> None:
        self.rng = random.Random(seed)
        self.turns = turns
        self.now = 0
        self.records: list[Record] = []
        self._ids = itertools.count(1)
        self._values = itertools.count(1)
        self._order = itertools.count()
        self._due: list[tuple[int, int, Steps]] = []
        self.zxid = 1
        self.registers = dict.fromkeys(REGISTERS, ("", 0, 1))
        self.watchers: dict[str, list[tuple[int, int]]] = {key: [] for key in REGISTERS}
        self.counter = 0
        self.entries: dict[str, str] = {}
        self.queue: list[int] = []
        self.ephemeral: int | None = None

    # -- what is written down ------------------------------------------------------------------------------

    def event(self, event: str, **what: object) -> None:
        self.records.append({"at": self.now, "event": event, **what})

    def call(self, client: int, op: str, key: str, **asked: object) -> int:
        id_ = next(self._ids)
        self.records.append({"at": self.now, "id": id_, "client": client, "call": op, "key": key, **asked})
        return id_

    def ok(self, id_: int, **answer: object) -> None:
        self.records.append({"at": self.now, "id": id_, "ok": answer})

    def refused(self, id_: int, why: str) -> None:
        self.records.append({"at": self.now, "id": id_, "refused": why})

    def unknown(self, id_: int) -> None:
        self.records.append({"at": self.now, "id": id_, "unknown": "ConnectionLoss"})

    # -- time ----------------------------------------------------------------------------------------------

    def a_while(self) -> int:
        return self.rng.randrange(1, 2_000)

    def spawn(self, steps: Steps) -> None:
        heapq.heappush(self._due, (self.now + self.a_while(), next(self._order), steps))

    def run(self) -> list[Record]:
        self.event(
            "torment", format=1, seed=0, seconds=1, replicas=len(REPLICAS), faults=[], missing={}, network="proxy"
        )
        for i in REPLICAS:
            self.event("started", replica=i)
        kinds = (self.registrar, self.registrar, self.registrar, self.adder, self.adder, self.appender)
        kinds += (self.locker, self.locker, self.locker, self.owner, self.owner, self.watcher)
        for client, kind in enumerate(kinds, 1):
            self.spawn(kind(client))
        while self._due:
            self.now, _, steps = heapq.heappop(self._due)
            for wait in steps:
                heapq.heappush(self._due, (self.now + wait, next(self._order), steps))
                break
        self._end(len(kinds))
        return self.records

    def _end(self, clients: int) -> None:
        self.now += 10_000
        self.event("healed")
        for client in range(1, clients + 1):
            self.event("came-on", client=client, what="some")
        self.event("calm")
        for i in REPLICAS:
            for key, (value, version, mzxid) in self.registers.items():
                id_ = self.call(1_000 + i, "read", key)
                self.now += 5
                self.ok(id_, value=value, version=version, mzxid=mzxid)
            what: Record = {
                "registers": {key: list(found) for key, found in self.registers.items()},
                "counters": {"counter-0": self.counter},
                "names": len(self.entries),
                "ephemerals": [],
            }
            if i == 1:
                what["entries"] = dict(self.entries)
            self.event("final", replica=i, **what)
        for i in REPLICAS:
            self.event("digest", replica=i, slot=90, digest="aa")
        self.event("equal", slot=90)
        self.event("end")

    # -- clients -------------------------------------------------------------------------------------------

    def attempt(self, id_: int, effect) -> Steps:
        """Let it take effect at some time, and be answered later; or be lost before, after, or for ever."""
        yield self.a_while()
        fate = self.rng.random()
        if fate > UNKNOWN:
            answer = effect()
            yield self.a_while()
            if isinstance(answer, str):
                self.refused(id_, answer)
            else:
                self.ok(id_, **answer)
            return
        if fate < UNKNOWN / 3:
            effect()
        elif fate < 2 * UNKNOWN / 3:
            self.spawn(self._late(effect))
        yield self.a_while()
        self.unknown(id_)

    def _late(self, effect) -> Steps:
        yield self.rng.randrange(1, 30_000)
        effect()

    def write(self, key: str, value: str, expected: int = -1):
        _, version, _ = self.registers[key]
        if expected not in (-1, version):
            return "BadVersion"
        self.zxid += 1
        self.registers[key] = (value, version + 1, self.zxid)
        for client, session in self.watchers[key]:
            self.event("watch", kind="event", client=client, session=session, key=key, mzxid=0)
        self.watchers[key].clear()
        return {"version": version + 1, "mzxid": self.zxid}

    def read(self, key: str):
        value, version, mzxid = self.registers[key]
        return {"value": value, "version": version, "mzxid": mzxid}

    def registrar(self, client: int) -> Steps:
        for _ in range(self.turns):
            key = self.rng.choice(REGISTERS)
            value = f"{client}-{next(self._values)}"
            kind = self.rng.choice(("read", "write", "cas"))
            if kind == "read":
                yield from self.attempt(self.call(client, "read", key), lambda key=key: self.read(key))
            elif kind == "write":
                id_ = self.call(client, "write", key, value=value)
                yield from self.attempt(id_, lambda key=key, value=value: self.write(key, value))
            else:
                expected = self.registers[key][1]
                id_ = self.call(client, "cas", key, value=value, expected=expected)
                yield from self.attempt(
                    id_, lambda key=key, value=value, expected=expected: self.write(key, value, expected)
                )
            yield self.a_while()

    def adder(self, client: int) -> Steps:
        for _ in range(self.turns):
            yield from self.attempt(self.call(client, "add", "counter-0"), self._add)

    def _add(self):
        self.counter += 1
        return {"value": self.counter}

    def appender(self, client: int) -> Steps:
        for _ in range(self.turns):
            value = f"{client}-{next(self._values)}"
            id_ = self.call(client, "append", "entries", value=value)
            yield from self.attempt(id_, lambda value=value: self._append(value))

    def _append(self, value: str):
        name = f"n-{len(self.entries):010}"
        self.entries[name] = value
        return {"name": name}

    def locker(self, client: int) -> Steps:
        for _ in range(self.turns):
            id_ = self.call(client, "lock", "lock-0")
            yield self.a_while()
            self.zxid += 1
            token = self.zxid
            self.queue.append(token)
            while self.queue[0] != token:
                yield 100
            yield self.a_while()
            self.ok(id_, token=token)
            yield self.a_while()
            until = self.now
            yield self.a_while()
            self.event("held", id=id_, until=until)
            self.queue.pop(0)
            yield self.a_while()

    def owner(self, client: int) -> Steps:
        for _ in range(self.turns):
            id_ = self.call(client, "create", "ephemeral-0")
            yield self.a_while()
            if self.ephemeral is not None:
                self.refused(id_, "NodeExists")
                continue
            self.zxid += 1
            self.ephemeral = self.zxid
            yield self.a_while()
            self.ok(id_, czxid=self.ephemeral, session=client)
            yield self.a_while()
            self.event("owned", id=id_, until=self.now)
            id_ = self.call(client, "delete", "ephemeral-0")
            yield self.a_while()
            self.ephemeral = None
            self.ok(id_)

    def watcher(self, client: int) -> Steps:
        for session in range(self.turns):
            key = self.rng.choice(REGISTERS)
            yield self.a_while()
            mzxid = self.registers[key][2]
            self.event("watch", kind="armed", client=client, session=session, key=key, mzxid=mzxid)
            self.watchers[key].append((client, session))
            while (client, session) in self.watchers[key]:
                yield self.a_while()
                shown = self.registers[key][2]
                self.event("watch", kind="reply", client=client, session=session, key=key, mzxid=shown)
                if not self._writers_left():
                    break
            if (client, session) in self.watchers[key]:
                self.watchers[key].remove((client, session))
                self.event("watch", kind="over", client=client, session=session, key=key, mzxid=0)

    def _writers_left(self) -> bool:
        return any(steps.gi_code.co_name == "registrar" for _, _, steps in self._due)


def good_history(seed: int = 1, turns: int = 25) -> list[Record]:
    """One in which every promise holds."""
    return World(seed, turns).run()
