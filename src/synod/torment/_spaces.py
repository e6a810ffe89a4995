"""A network of namespaces: each replica has a machine's worth of network to itself, and packets are really lost.

What a proxy cannot do happens here: TCP sends again after longer and longer pauses, connections are half open, and
whoever calls gets no answer at all. The clients and the nemesis are in one more namespace, the hub, which has the
bridge between all others. Replicas do not leave loopback without TLS: so the addresses are of 127.77.0.0/24, which
each namespace is told to route.

The namespaces have no names: they go with the processes in them, however those end. Read `Spaces.lay`, then `_rules`.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from ._network import CLIENTS, Link, Place
from ._processes import NotStarted

CLONE_NEWNET: Final = 0x40000000
OWN: Final = "/proc/thread-self/ns/net"

NETWORK: Final = "127.77.0"
HUB: Final = 254
CLIENT_PORT, PEER_PORT, HTTP_PORT = 2181, 2182, 2183

NO_DELAY: Final = "namespaces lose packets and delay none"


def spaces_possible() -> str | None:
    """Why there can be no such network on this machine, or None."""
    if os.geteuid() != 0:
        return "it needs root"
    for program, package in (("ip", "iproute2"), ("nft", "nftables")):
        if shutil.which(program) is None:
            return f"the command {program} is not installed (Debian: {package})"
    return None


class Spaces:
    """The namespaces, a `Network`; used from the main thread alone, which is in the hub from `lay` to `stop`."""

    missing: Mapping[str, str] = {"delay": NO_DELAY}

    def __init__(self) -> None:
        self._cuts: Counter[Link] = Counter()
        self._losses: dict[Link, float] = {}
        self._spaces: dict[int, int] = {}  # descriptors; the hub is that of CLIENTS
        self._before = -1

    def lay(self, ids: Sequence[int]) -> dict[int, Place]:
        """See `Network`.

        Raises:
            NotStarted: the kernel does not allow it.
        """
        self._before = os.open(OWN, os.O_RDONLY | os.O_CLOEXEC)
        for i in (*ids, CLIENTS):
            _call("unshare", CLONE_NEWNET)
            self._spaces[i] = os.open(OWN, os.O_RDONLY | os.O_CLOEXEC)
        _ip("link set lo up", "link add br0 type bridge", "link set br0 up")
        _route_loopback("br0")
        _ip(f"addr add {NETWORK}.{HUB}/24 dev br0")
        for i in ids:
            _ip(
                f"link add p{i} type veth peer name v0 netns /proc/{os.getpid()}/fd/{self._spaces[i]}",
                f"link set p{i} master br0 up",
            )
            with self._within(i):
                _ip("link set lo up")
                _route_loopback("v0")
                _ip(f"addr add {NETWORK}.{i}/24 dev v0", "link set v0 up")
        for i in self._spaces:
            self._apply(i)
        return {i: _place(f"{NETWORK}.{i}") for i in ids}

    @contextlib.contextmanager
    def _within(self, i: int) -> Iterator[None]:
        _enter(self._spaces[i])
        try:
            yield
        finally:
            _enter(self._spaces[CLIENTS])

    def enter(self, i: int) -> Callable[[], None]:
        """See `Network`."""
        return functools.partial(_enter, self._spaces[i])

    def start(self) -> None:
        """See `Network`: it carries already."""

    def stop(self) -> None:
        """Go back to where this process was; what was made goes by itself."""
        if self._before < 0:
            return
        _enter(self._before)
        for space in (self._before, *self._spaces.values()):
            os.close(space)
        self._spaces.clear()
        self._before = -1

    def cut(self, links: Iterable[Link], *, drop: bool) -> None:  # noqa: ARG002 -- packets go astray without a word
        """See `Network`."""
        wanted = frozenset(links)
        self._cuts.update(wanted)
        self._apply_all(wanted)

    def mend(self, links: Iterable[Link], *, drop: bool) -> None:  # noqa: ARG002 -- the same
        """See `Network`."""
        wanted = frozenset(links)
        self._cuts.subtract(wanted)
        self._apply_all(wanted)

    def delay(self, links: Iterable[Link], seconds: float, jitter: float) -> None:
        """See `missing`."""
        raise NotImplementedError(NO_DELAY)

    def lose(self, links: Iterable[Link], share: float) -> None:
        """See `Network`."""
        wanted = frozenset(links)
        for link in wanted:
            if share:
                self._losses[link] = share
            else:
                self._losses.pop(link, None)
        self._apply_all(wanted)

    def heal(self) -> None:
        """See `Network`."""
        self._cuts.clear()
        self._losses.clear()
        for i in self._spaces:
            self._apply(i)

    def evidence(self) -> int:
        """Packets that were lost."""
        lost = 0
        for i in self._spaces:
            with self._within(i):
                told = _run("nft", "list", "counter", "ip", "synod", "lost")
            lost += sum(int(packets) for packets in re.findall(r"packets (\d+)", told))
        return lost

    def _apply_all(self, links: frozenset[Link]) -> None:
        for i in {b for _, b in links}:
            self._apply(i)

    def _apply(self, i: int) -> None:
        with self._within(i):
            _run("nft", "-f", "-", told=self._rules(i))

    def _rules(self, i: int) -> str:
        """What a namespace does with what comes in, whole: whoever watches gets through, whatever happens."""
        rules = [f"tcp sport {HTTP_PORT} accept", f"tcp dport {HTTP_PORT} accept"]
        for (a, b), count in sorted(self._cuts.items()):
            if b == i and count > 0:
                rules.append(f"ip saddr {_address(a)} counter name lost drop")
        for (a, b), share in sorted(self._losses.items()):
            if b == i:
                rules.append(
                    f"ip saddr {_address(a)} numgen random mod 1000 < {round(share * 1000)} counter name lost drop"
                )
        return "\n".join(
            (
                "add table ip synod",
                "add counter ip synod lost",
                "add chain ip synod in { type filter hook input priority 0; }",
                "flush chain ip synod in",
                *(f"add rule ip synod in {rule}" for rule in rules),
                "",
            )
        )


def _address(i: int) -> str:
    return f"{NETWORK}.{HUB if i == CLIENTS else i}"


def _place(host: str) -> Place:
    client, peer, http = (f"{host}:{port}" for port in (CLIENT_PORT, PEER_PORT, HTTP_PORT))
    return Place(client=client, peer=peer, http=http, client_front=client, peer_front=peer)


def _route_loopback(device: str) -> None:
    """Let addresses of loopback cross a device; only 127.0.0.0/24 stays inside."""
    for where in ("all", device):
        for name, value in (("route_localnet", "1"), ("rp_filter", "0")):
            Path(f"/proc/sys/net/ipv4/conf/{where}/{name}").write_text(value)
    _ip(
        "route del local 127.0.0.0/8 dev lo table local",
        "route add local 127.0.0.0/24 dev lo table local src 127.0.0.1",
    )


def _ip(*commands: str) -> None:
    for command in commands:
        _run("ip", *command.split())


def _run(*command: str, told: str = "") -> str:
    done = subprocess.run(command, input=told, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotStarted(f"no network of namespaces: `{' '.join(command)}` says {done.stderr.strip()}")
    return done.stdout


def _enter(space: int) -> None:
    _call("setns", space, CLONE_NEWNET)


def _call(name: str, *arguments: int) -> None:
    """A call of the C library that Python 3.11 does not have."""
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments):
        raise NotStarted(f"no network of namespaces: {name}: {os.strerror(ctypes.get_errno())}")
