"""A session, a clock that only the test moves, and the far end of its connection in the test's own hands."""

from __future__ import annotations

import random

from synod import wire
from synod.base import MILLISECOND, SECOND
from synod.client import Address, Answer, Changed, Fired, Lapsed, Session, SessionOptions

TIMEOUT = 8 * SECOND
LEASE = TIMEOUT - TIMEOUT // 16
HOSTS = (Address("a", 1), Address("b", 2), Address("c", 3))


class World:
    """Plays network and cell for one `Session`."""

    def __init__(self, *, hosts=HOSTS, seed=1, session_id=0, password=b"", **options):
        self.now = 1_000 * SECOND
        self.session = Session(
            hosts,
            options=SessionOptions(session_timeout_ms=TIMEOUT // MILLISECOND, **options),
            rng=random.Random(seed),
            now=self.now,
            session_id=session_id,
            password=password,
        )
        self.events = []
        self._splitter = wire.FrameSplitter()

    # -- the network

    def dial(self):
        """Let the session connect to where it wants; returns the connect request that arrives there."""
        address = self.session.dial(self.now)
        if address is None:
            self.pass_time(self.session.next_deadline() - self.now)
            address = self.session.dial(self.now)
        assert address is not None
        self.session.dialled(self.now)
        self._splitter = wire.FrameSplitter()
        (greeting,) = self._splitter.feed(self.session.data_to_send())
        return wire.decode_connect_request(greeting)

    def greet(self, session_id=77, timeout_ms=TIMEOUT // MILLISECOND, password=b"p" * 16):
        """The cell takes the session in."""
        self.deliver(wire.framed(wire.encode_connect_response(timeout_ms, session_id, password, False)))

    def connect(self, **greeting):
        request = self.dial()
        self.greet(**greeting)
        return request

    def deliver(self, data):
        self.session.received(data, self.now)
        self.take_events()

    def cut(self, reason="cut by the test"):
        self.session.lost(reason)
        self.take_events()

    # -- what arrives at the cell, and its answers

    def arrived(self):
        """The requests that were sent since the last look: [(header, request)]."""
        return [wire.decode_request(body) for body in self._splitter.feed(self.session.data_to_send())]

    def answer(self, xid, body=b"", *, err=0, zxid=0):
        self.deliver(wire.encode_reply(xid, zxid, err, body))

    def answer_ping(self):
        self.answer(wire.XID_PING)

    def tell(self, type_, path, zxid=-1):
        self.deliver(wire.encode_event(wire.WatcherEvent(type_, wire.STATE_SYNC_CONNECTED, path), zxid))

    # -- time and results

    def pass_time(self, micros):
        """Move the clock, ticking at every deadline on the way."""
        end = self.now + micros
        while True:
            due = self.session.next_deadline()
            if due is None or due > end:
                break
            self.now = max(self.now, due)
            self.session.tick(self.now)
            self.take_events()
            if self.session.next_deadline() is not None and self.session.next_deadline() <= self.now:
                break  # waits for the host to dial
        self.now = end
        self.session.tick(self.now)
        self.take_events()

    def take_events(self):
        self.events += self.session.events()

    def drain(self):
        """What has happened since the last call."""
        self.take_events()
        events, self.events = self.events, []
        return events

    def states(self):
        return [event.state for event in self.drain() if isinstance(event, Changed)]

    def answers(self):
        return {event.sink: event.error or event.value for event in self.drain() if isinstance(event, Answer)}

    def lapses(self):
        return [event for event in self.drain() if isinstance(event, Lapsed)]

    def fired(self):
        return [event.event for event in self.drain() if isinstance(event, Fired)]

    # -- requests

    def get(self, path="/a", sink="get", watcher=None, deadline=None):
        request = wire.GetData(path, watcher is not None)
        return self.session.submit(
            request, path=path, take=wire.take_data, sink=sink, watcher=watcher, repeatable=True, deadline=deadline
        )

    def set(self, path="/a", sink="set", deadline=None):
        request = wire.SetData(path, b"v")
        return self.session.submit(request, path=path, take=wire.take_stat, sink=sink, deadline=deadline)


STAT = wire.Stat(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11)
DATA = wire.pack_data(b"v", STAT)
