"""Fixtures of the tests of `experiments.data`; none needs a network."""

import http.server
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from experiments import data
from experiments.data import cache
from tests.experiments.data.publishing import MNIST_SETS, ROOT, Publisher


@pytest.fixture(name="server")
def fixture_server() -> Iterator[http.server.HTTPServer]:
    """A server of the files in its `published` dictionary, which notes what is asked of it."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.lstrip("/")
            server.requested.append(name)
            body = server.published.get(name)
            self.send_response(404 if body is None else 200)
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.published, server.requested = {}, []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(name="publish")
def fixture_publish(server, monkeypatch, tmp_path):
    """A function that publishes a set by name; `load` then uses directories of this test alone."""
    monkeypatch.setenv("GUMBEL_CACHE_DIR", str(tmp_path / "arrays"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))

    def publish(name: str) -> Publisher:
        publisher = Publisher(name, monkeypatch, f"http://127.0.0.1:{server.server_port}")
        server.published = publisher.files
        return publisher

    return publish


@pytest.fixture(name="cached")
def fixture_cached(publish, tmp_path):
    """A small `mnist` in the cache, and prepared data to rebuild it from."""
    publisher = publish("mnist")
    data.load("mnist")
    return publisher, *cache.paths(tmp_path / "arrays", publisher.spec)


@pytest.fixture(name="real_data_dir", scope="module")
def fixture_real_data_dir() -> Path:
    """What TFDS_DATA_DIR names, else a `shared` directory beside the repository."""
    for place in (os.environ.get("TFDS_DATA_DIR"), ROOT.parent / "shared" / "tensorflow_datasets"):
        if place and all((Path(place) / name).is_dir() for name in MNIST_SETS):
            return Path(place)
    pytest.skip("no prepared MNIST at hand: let TFDS_DATA_DIR name it")
