"""A real web server that receives the messages of webhooks."""

from __future__ import annotations

import json
import queue
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Listener:
    """A web server that keeps the requests, and answers as a test demands."""

    def __init__(self) -> None:
        self.heard: queue.Queue[tuple[str, dict[str, str], Any]] = queue.Queue()
        self.answers: list[tuple[int, dict[str, str]]] = []
        listener = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                listener.heard.put((self.path, dict(self.headers), json.loads(body)))
                code, headers = listener.answers.pop(0) if listener.answers else (200, {})
                self.send_response(code)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def contents(self) -> list[Any]:
        """Return the messages received so far."""
        return [self.heard.get_nowait()[2] for _ in range(self.heard.qsize())]
