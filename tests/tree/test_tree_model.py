"""The tree against a model that is a dict of paths, with nothing fast or shared in it.

The model's rules are written down a second time, from the protocol's documents, on purpose.
"""

from __future__ import annotations

import random

import pytest
from tree_world import (
    PlainTree,
    World,
    children2,
    create,
    delete,
    exists,
    get_data,
    multi,
    op_check,
    op_create,
    op_delete,
    op_set,
    set_data,
)

from synod.tree import Tree

RESERVED = ("/", "/zookeeper", "/zookeeper/quota", "/zookeeper/config")


class Model:
    """Paths to dicts. Names are str, everything is recomputed when it is asked for."""

    def __init__(self) -> None:
        self.nodes: dict[str, dict] = {}
        self.zxid = 0
        self.now = 0
        for path in RESERVED:
            self.nodes[path] = self.node(None, 0)
            self.nodes[path]["ctime"] = self.nodes[path]["mtime"] = 0

    def node(self, data: bytes | None, owner: int) -> dict:
        return {
            "data": data,
            "czxid": self.zxid,
            "mzxid": self.zxid,
            "pzxid": self.zxid,
            "ctime": self.now,
            "mtime": self.now,
            "version": 0,
            "created": 0,
            "removed": 0,
            "owner": owner,
        }

    @staticmethod
    def parent(path: str) -> str:
        return path.rsplit("/", 1)[0] or "/"

    def children(self, path: str) -> list[str]:
        return sorted(p.rsplit("/", 1)[1] for p in self.nodes if p != "/" and self.parent(p) == path)

    def stat(self, path: str) -> dict[str, int]:
        node = self.nodes[path]
        start = {"/": -1, "/zookeeper": -2}.get(path, 0)
        return {
            "czxid": node["czxid"],
            "mzxid": node["mzxid"],
            "ctime": node["ctime"],
            "mtime": node["mtime"],
            "version": node["version"],
            "cversion": start + node["created"] + node["removed"],
            "aversion": 0,
            "ephemeral_owner": node["owner"],
            "data_length": len(node["data"] or b""),
            "num_children": len(self.children(path)),
            "pzxid": node["pzxid"],
        }

    def create(self, path: str, data: bytes | None, flags: int, session: int) -> str | int:
        parent = self.parent(path)
        if parent not in self.nodes:
            return -101
        if flags & 2:
            path += f"{self.nodes[parent]['created']:010}"
        if path in self.nodes:
            return -110
        if self.nodes[parent]["owner"]:
            return -108
        self.nodes[path] = self.node(data, session if flags & 1 else 0)
        self.nodes[parent]["created"] += 1
        self.nodes[parent]["pzxid"] = self.zxid
        return path

    def delete(self, path: str, version: int) -> int:
        if path in RESERVED:
            return -8
        if path not in self.nodes:
            return -101
        if version not in (-1, self.nodes[path]["version"]):
            return -103
        if self.children(path):
            return -111
        del self.nodes[path]
        self.nodes[self.parent(path)]["removed"] += 1
        self.nodes[self.parent(path)]["pzxid"] = self.zxid
        return 0

    def set(self, path: str, data: bytes | None, version: int) -> int:
        if path not in self.nodes:
            return -101
        if version not in (-1, self.nodes[path]["version"]):
            return -103
        self.nodes[path].update(data=data, mzxid=self.zxid, mtime=self.now, version=self.nodes[path]["version"] + 1)
        return 0

    def check(self, path: str, version: int) -> int:
        if path not in self.nodes:
            return -101
        return 0 if version in (-1, self.nodes[path]["version"]) else -103

    def end(self, session: int) -> None:
        for path in [path for path, node in self.nodes.items() if node["owner"] == session]:
            self.delete(path, -1)


PATHS = ["/a", "/b", "/a/c", "/a/c/d", "/b/e", "/b/f-", "/b/e/g", "/zookeeper/quota/q", "/zookeeper"]


@pytest.mark.parametrize("kind", [Tree, PlainTree])
@pytest.mark.parametrize("seed", range(6))
def test_the_tree_is_a_dict_of_paths(seed: int, kind: type[Tree]) -> None:
    rng = random.Random(seed)
    world, model = World(kind()), Model()
    sessions = [world.connect(1), world.connect(2)]
    seen: set[int] = set()
    for xid in range(1, 1500):
        model.zxid, model.now = world.tree.zxid + 1, world.wall_ms + 1
        which = rng.randrange(2)
        session = sessions[which]
        path, version = rng.choice(PATHS), rng.choice([-1, -1, 0, 1])
        data = rng.choice([None, b"", b"data"])
        raw = path.encode()
        kind_ = rng.randrange(20)
        if kind_ < 8:
            flags = rng.choice([0, 0, 1, 1, 2, 3])
            want = model.create(path, data, flags, session)
            got = world.one(session, create(xid, raw, data, flags, op=rng.choice([1, 15])))
            assert (got.err or got.field().decode()) == want
            seen.add(got.err)
        elif kind_ < 12:
            want = model.set(path, data, version)
            got = world.one(session, set_data(xid, raw, data, version))
            assert got.err == want
            if not want:
                assert got.stat() == model.stat(path)
            seen.add(want)
        elif kind_ < 17:
            want = model.delete(path, version)
            assert world.one(session, delete(xid, raw, version)).err == want
            seen.add(want)
        elif kind_ < 19:
            saved = {p: dict(node) for p, node in model.nodes.items()}
            operations, errors = [], []
            for _ in range(rng.randrange(1, 4)):
                inner, v = rng.choice(PATHS), rng.choice([-1, 0])
                choice = rng.randrange(4)
                operations.append(
                    [
                        op_create(inner.encode(), b"m"),
                        op_delete(inner.encode(), v),
                        op_set(inner.encode(), b"m", v),
                        op_check(inner.encode(), v),
                    ][choice]
                )
                if not any(errors):
                    made = [
                        lambda i=inner: model.create(i, b"m", 0, 0),
                        lambda i=inner, v=v: model.delete(i, v),
                        lambda i=inner, v=v: model.set(i, b"m", v),
                        lambda i=inner, v=v: model.check(i, v),
                    ][choice]()
                    errors.append(0 if isinstance(made, str) else made)
                else:
                    errors.append(-2)
            if any(errors):
                model.nodes = saved
            got = world.one(session, multi(xid, *operations))
            assert [err for _, err, _ in got.results()] == errors
        elif rng.random() < 0.3:
            model.end(session)
            world.items(world.slice(session, b"\0\0\0\x08\0\0\0\x01\xff\xff\xff\xf5"))
            world.sink.take(which + 1)
            sessions[which] = world.connect(which + 1)
        probe = rng.choice(PATHS)
        got = world.read(sessions[0], exists(xid, probe.encode()))
        assert (got.err == 0) == (probe in model.nodes)
        if got.err == 0:
            assert got.stat() == model.stat(probe)
            listed = world.read(sessions[0], children2(xid, probe.encode()))
            assert [name.decode() for name in listed.names()] == model.children(probe)
            assert listed.stat() == model.stat(probe)
            if probe not in RESERVED:
                assert world.read(sessions[0], get_data(xid, probe.encode())).field() == model.nodes[probe]["data"]
    assert {0, -101, -103, -108, -110, -111} <= seen
    there = {path.decode() for path in world.tree.nodes} - {"/zookeeper/synod"}
    assert there == set(model.nodes)
    world.tree.check()
