"""Serve pages of results to this machine only."""

import errno
import os
import sys
from collections.abc import Callable, Sequence
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock
from urllib.parse import quote, unquote_to_bytes, urlsplit

from mtpano_zoo.errors import InputError
from mtpano_zoo.output_paths import printable

__all__ = ("Server",)

HOST = "127.0.0.1"
KEPT = 4  # pages in memory

LIST = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Results</title>
<link rel="icon" href="data:,"><style>body {{ font: 16px/1.6 system-ui, sans-serif; margin: 2rem }}</style></head>
<body><h1>Results</h1><ul>{}</ul></body></html>
"""


class Server(ThreadingHTTPServer):
    """Serve one page at `/`, or a list of pages at `/` and each page at its name.

    Args:
        names: names of the pages.
        make: returns the page of a name. It is called when the page is requested.
        port: port to listen on; 0 for any that is free.

    Raises:
        InputError: If the port is taken, not allowed or out of range.
    """

    daemon_threads = True
    allow_reuse_address = os.name != "nt"  # Windows would let two servers share a port

    def __init__(self, names: Sequence[str], make: Callable[[str], str], port: int) -> None:
        if not 0 <= port <= 65535:
            raise InputError(f"a port is a number from 0 to 65535, not {port}")
        self.names = tuple(names)
        self._make = make
        self._pages: dict[str, bytes] = {}
        self._lock = Lock()
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                word = "taken" if error.errno == errno.EADDRINUSE else "not allowed"
                raise InputError(
                    f"port {port} is {word}: choose another with --port, or 0 for any that is free"
                ) from error
            raise

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore a browser that left before it had received everything."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]

    @property
    def address(self) -> str:
        """URL of the page."""
        return f"http://{HOST}:{self.server_port}/"

    def content(self, path: str) -> tuple[int, bytes]:
        """Return the status and the page of a path."""
        name = os.fsdecode(unquote_to_bytes(path)).removeprefix("/")
        if not name and len(self.names) > 1:
            links = ((escape(quote(os.fsencode(name))), escape(printable(name))) for name in self.names)
            return 200, LIST.format("".join(f'<li><a href="/{link}">{text}</a></li>' for link, text in links)).encode()
        name = name or self.names[0]
        if name not in self.names:
            return 404, f"There is no result named {name}.".encode(errors="replace")
        try:
            with self._lock:  # one page at a time: each takes much memory
                if name not in self._pages:
                    while len(self._pages) >= KEPT:
                        self._pages.pop(next(iter(self._pages)))
                    self._pages[name] = self._make(name).encode()
                return 200, self._pages[name]
        except (InputError, OSError) as error:
            return 500, str(error).encode(errors="replace")


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        # Another site could make its name resolve to this machine and read the page (DNS rebinding).
        known = {f"{host}:{self.server.server_port}" for host in (HOST, "localhost")}
        status, content = 403, b"Ask for 127.0.0.1."
        if self.headers.get("Host") in known:
            status, content = self.server.content(urlsplit(self.path).path)
        self.send_response(status)
        self.send_header("Content-Type", f"text/{'html' if status == 200 else 'plain'}; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""
