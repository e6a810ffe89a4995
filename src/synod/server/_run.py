"""Running one replica in this process, from the sockets to the last clean hand-over."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from synod.base import SynodError, UserError, refuse_without_checks
from synod.storage import FileSystem, StoreOptions

from ._clients import ClientConnection
from ._config import Address, Config
from ._host import Host
from ._peers import PeerConnection, dial

logger = logging.getLogger("synod.server")

EXIT_DONE = 0
EXIT_LEFT = 1
EXIT_USER = 2
EXIT_UNAVAILABLE = 3


class Server:
    """One running replica: listeners, peers, admin HTTP and the host of the core.

    Args:
        config: what the replica was told.
        fs: another file system than the real one; for `local` and tests.
        fresh_zxid: see `Host`.
    """

    def __init__(
        self,
        config: Config,
        *,
        fs: FileSystem | None = None,
        fresh_zxid: int = 0,
        store_options: StoreOptions | None = None,
    ) -> None:
        self.config = config
        self._fs = fs
        self._fresh_zxid = fresh_zxid
        self._store_options = store_options
        self._tasks: list[asyncio.Task[None]] = []
        self._dials: dict[tuple[int, bool], tuple[str, asyncio.Task[None]]] = {}
        self._listeners: list[asyncio.Server] = []
        self._sockets: list[socket.socket] = []
        self._stop_reason: asyncio.Future[str] | None = None
        self._host: Host | None = None

    @property
    def host(self) -> Host:
        """The host; there is one between `start` and `stop`."""
        if self._host is None:
            raise RuntimeError("the server has not been started")
        return self._host

    async def start(self) -> None:
        """Bind, open the directory, recover, and serve.

        Raises:
            UserError: a port is in use, or the directory cannot be used; nothing was left behind.
            StorageError: the disk failed or is damaged.
        """
        loop = asyncio.get_running_loop()
        stop_reason: asyncio.Future[str] = loop.create_future()
        self._stop_reason = stop_reason

        def on_stop(reason: str) -> None:
            if not stop_reason.done():
                stop_reason.set_result(reason)

        sockets: list[socket.socket] = []
        try:
            addresses = (self.config.client, self.config.peer, self.config.http)
            sockets.extend(_bind(address) for address in addresses if address is not None)
            host = self._host = Host(
                self.config,
                on_stop=on_stop,
                on_members=self._dial_members,
                fs=self._fs,
                fresh_zxid=self._fresh_zxid,
                store_options=self._store_options,
            )
        except BaseException:
            for sock in sockets:
                sock.close()
            raise
        self._sockets = sockets
        host.start()
        # Any: compiled classes have no base class of asyncio's, and need none.
        clients: Callable[[], Any] = lambda: ClientConnection(host)  # noqa: E731
        peers: Callable[[], Any] = lambda: PeerConnection(host)  # noqa: E731
        self._listeners.append(await loop.create_server(clients, sock=sockets[0], backlog=1024))
        self._listeners.append(await loop.create_server(peers, sock=sockets[1]))
        self._dial_members()
        if self.config.http is not None:
            from ._admin import admin_server

            server, listening = admin_server(host, sockets[2])
            self._spawn(server.serve(listening))

    def _dial_members(self) -> None:
        """Keep two connections to every member with a lower id, at its present address, and to nobody else."""
        wanted = {id_: address for id_, address in self.host.addresses().items() if id_ < self.config.id}
        for key, (address, task) in list(self._dials.items()):
            if wanted.get(key[0]) != address:
                del self._dials[key]
                task.cancel()
        for id_, address in wanted.items():
            for bulk in (False, True):
                if (id_, bulk) not in self._dials:
                    work = dial(self.host, id_, address, bulk=bulk)
                    self._dials[id_, bulk] = (address, asyncio.get_running_loop().create_task(work))

    def _spawn(self, work: Awaitable[None]) -> None:
        async def run() -> None:
            await work

        self._tasks.append(asyncio.get_running_loop().create_task(run()))

    async def wait_stopped(self) -> str:
        """Wait until the replica must stop; returns why."""
        if self._stop_reason is None:
            raise RuntimeError("the server has not been started")
        return await asyncio.shield(self._stop_reason)

    async def stop(self, *, hand_over: bool = True) -> None:
        """Stop serving; a leader hands over first."""
        if self._host is None:
            return
        for listener in self._listeners:
            listener.close()
        if hand_over:
            await self._host.stop()
        else:
            self._host.close()
        tasks = [*self._tasks, *(task for _, task in self._dials.values())]
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError, OSError):
                await task
        for sock in self._sockets:  # the admin server, when it is cancelled, leaves its own open
            sock.close()
        self._host = None


def _bind(address: Address) -> socket.socket:
    """A listening socket.

    Raises:
        UserError: the port is in use, or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((address.host, address.port))
        sock.listen(1024)
    except OSError as failure:
        sock.close()
        if failure.errno == errno.EADDRINUSE:
            raise UserError(
                f"the address {address} is in use by another process; stop it, or choose another port in the config"
            ) from failure
        raise UserError(f"cannot listen on {address}: {failure.strerror}") from failure
    sock.setblocking(False)
    return sock


def event_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Uvloop's loop where there is one: at one connection it is half as slow again without (measured)."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


async def _serve(config: Config) -> tuple[int, str]:
    """Serve until told to stop or until the replica must stop; the exit code, and why."""
    server = Server(config)
    loop = asyncio.get_running_loop()
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    await server.start()
    logger.info("replica %d serves clients at %s", config.id, config.client)
    failing = asyncio.create_task(server.wait_stopped())
    telling = asyncio.create_task(told.wait())
    done, _ = await asyncio.wait({failing, telling}, return_when=asyncio.FIRST_COMPLETED)
    telling.cancel()
    reason = failing.result() if failing in done else None
    failing.cancel()
    code = EXIT_DONE if reason is None else EXIT_LEFT if server.host.replica.has_left else EXIT_UNAVAILABLE
    await server.stop(hand_over=reason is None)
    return code, reason or ""


def serve(config: Config) -> int:
    """Run a replica in the foreground until SIGTERM.

    Returns:
        0 after a clean stop, 1 when the cell has removed this replica, 2 for the user's mistake, 3 when the replica
        had to stop.
    """
    try:
        refuse_without_checks()
        with asyncio.Runner(loop_factory=event_loop()) as runner:
            code, reason = runner.run(_serve(config))
    except UserError as mistake:
        sys.stderr.write(f"synod: {mistake}\n")
        return EXIT_USER
    except SynodError as failure:
        sys.stderr.write(f"synod: {failure}\n")
        return EXIT_UNAVAILABLE
    except Exception:
        # An interpreter that dies of an exception ends with 1, which would say that the cell has removed this replica.
        logger.exception("a bug ends this replica")
        return EXIT_UNAVAILABLE
    if reason:
        sys.stderr.write(f"synod: this replica stops: {reason}\n")
    return code
