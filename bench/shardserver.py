"""A loopback HTTP server of shards that can truncate its replies. bench/chaos.py reads images through it."""

from __future__ import annotations

import socket
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class ShardServer:
    """Serves a folder. For the time given to `cut_for` every reply has its full Content-Length and ends in the middle."""

    def __init__(self, folder: Path) -> None:
        self.cut = 0
        self._until = 0.0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, self, directory=str(folder)))
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def cut_for(self, seconds: float) -> None:
        self._until = time.monotonic() + seconds

    @property
    def is_cutting(self) -> bool:
        return time.monotonic() < self._until

    def close(self) -> None:
        self._server.shutdown()

    @staticmethod
    def free_port() -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return int(probe.getsockname()[1])


class _Handler(SimpleHTTPRequestHandler):
    def __init__(self, owner: ShardServer, *args: Any, **kwargs: Any) -> None:
        self.owner = owner
        super().__init__(*args, **kwargs)

    def copyfile(self, source: Any, outputfile: Any) -> None:
        if not self.owner.is_cutting:
            super().copyfile(source, outputfile)
            return
        data = source.read()
        outputfile.write(data[: len(data) // 2])
        self.owner.cut += 1
        self.close_connection = True

    def log_message(self, *args: Any) -> None:
        """Log nothing."""
