"""What the demo does to its processes."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

from synod.demo._processes import Replicas


@contextmanager
def status_of(id_: int, roles: list[str]) -> Iterator[str]:
    """A replica that says so of itself, the last one again and again."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            said = json.dumps({"id": id_, "role": roles.pop(0) if len(roles) > 1 else roles[0]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_the_leader_is_killed_as_soon_as_there_is_one() -> None:
    """In the middle of an election nobody leads, which is no reason to end the demo."""
    victims = [subprocess.Popen(["sleep", "600"]) for _ in range(2)]
    try:
        with status_of(1, ["follower"]) as one, status_of(2, ["follower", "candidate", "leader"]) as two:
            replicas = object.__new__(Replicas)
            replicas.urls = [one, two]
            replicas._pids = {id_: victim.pid for id_, victim in enumerate(victims, 1)}
            assert replicas.kill_leader() == "replica 2, the leader"
        assert victims[1].wait(timeout=30) == -signal.SIGKILL
        assert victims[0].poll() is None
    finally:
        for victim in victims:
            victim.kill()
            victim.wait()
