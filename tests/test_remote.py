"""Datasets behind a URL, from servers with faults: every read ends with the correct bytes or an error that names the place."""

from __future__ import annotations

import logging
import re
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import numpy as np
import pytest
from conftest import ROOT, TINY

from orchestrator.prepare import prepare, refuse_missing_indexes
from vitmodel.config.base import UserError
from vitmodel.data.bad_samples import StoreUnavailableError
from vitmodel.data.generated import FractalConfig
from vitmodel.data.index import load_index, read_index
from vitmodel.data.node_cache import NodeCache
from vitmodel.data.order import Batch
from vitmodel.data.reader import Dataset, ReadOptions
from vitmodel.data.remote import RemoteError, RetryPolicy, is_url
from vitmodel.data.shards import pack

FRACTALS = FractalConfig(generate="fractals", classes=4, train=5000, val=40, image_size=8, points=64)
QUICK = RetryPolicy(attempts=5, timeout_seconds=1.0, first_wait_seconds=0.01)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("remote") / "fractals"
    pack(FRACTALS, root, processes=1)
    return root


class Server:
    """Serves a folder. `misbehave(number, path)` gives the fault of a request: "cut", "hang", "404", "no ranges" or ""."""

    def __init__(self, root: Path, misbehave: Callable[[int, str], str]) -> None:
        self.root, self.misbehave = root, misbehave
        self.requests: list[str] = []
        self.bytes = 0
        self.release = threading.Event()


def handler_of(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: object) -> None:
            """No output."""

        def do_HEAD(self) -> None:
            self.do_GET(body=False)

        def do_GET(self, body: bool = True) -> None:
            server.requests.append(self.path)
            fault = server.misbehave(len(server.requests), self.path)
            path = server.root / self.path.lstrip("/")
            if fault == "hang":
                server.release.wait(20)
            if fault == "404" or not path.is_file():
                self.send_error(404)
                return
            data = path.read_bytes()
            requested = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            if requested and fault != "no ranges":
                first, last = int(requested[1]), int(requested[2] or len(data) - 1)
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
                data = data[first : last + 1]
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if body:
                self.wfile.write(data[: len(data) // 2] if fault == "cut" else data)
                server.bytes += len(data)
            if fault == "cut":
                self.close_connection = True

    return Handler


@contextmanager
def serving(root: Path, misbehave: Callable[[int, str], str] = lambda number, path: "") -> Iterator[tuple[str, Server]]:
    server = Server(root, misbehave)
    http = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(server))
    http.daemon_threads = True
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{http.server_port}", server
    finally:
        server.release.set()
        http.shutdown()
        http.server_close()


def reading(folder: Path, limit_bytes: int = 2**30, **changes: object) -> ReadOptions:
    return ReadOptions(cache="off", node_cache=NodeCache(folder=folder, limit_bytes=limit_bytes), retry_policy=QUICK, **changes)


def all_of(dataset: Dataset, batch_size: int = 500) -> np.ndarray:
    numbers = np.arange(dataset.size)
    parts = (Batch(part, np.zeros_like(part)) for part in np.array_split(numbers, dataset.size // batch_size))
    return np.concatenate([loaded.images for loaded in dataset.batches(parts)])


@pytest.mark.parametrize("fault", ["", "cut", "no ranges"])
def test_the_same_images_as_from_the_folder(packed: Path, tmp_path: Path, fault: str) -> None:
    misbehave = {"cut": lambda number, path: "cut" if number % 3 == 0 else ""}.get(fault, lambda number, path: fault)
    local = all_of(Dataset(packed, "train", 8))
    with serving(packed, misbehave) as (url, _):
        assert np.array_equal(all_of(Dataset(url, "train", 8, reading=reading(tmp_path))), local)


@pytest.fixture
def bucket(packed: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The dataset in an S3-compatible store on this machine."""
    from moto.server import ThreadedMotoServer  # imported here: the processes that tests start import this file, too

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "any")
    files = fsspec.filesystem("s3", skip_instance_cache=True)
    files.mkdir("bucket")
    for path in packed.iterdir():
        files.pipe_file(f"bucket/data/{path.name}", path.read_bytes())
    yield "s3://bucket/data"
    server.stop()
    type(files).clear_instance_cache()


def test_s3(bucket: str, packed: Path, tmp_path: Path) -> None:
    """Equal images through the node cache and by range; a missing index and a changed shard are named."""
    local = all_of(Dataset(packed, "train", 8))
    assert np.array_equal(all_of(Dataset(bucket, "train", 8, reading=reading(tmp_path))), local)
    few = np.arange(0, 5000, 500)
    ranged = Dataset(bucket, "train", 8, reading=reading(tmp_path / "none", limit_bytes=1))
    assert np.array_equal(ranged.read(few), local[few])
    with pytest.raises(UserError, match=r"s3://bucket/nothing.*not a dataset"):
        load_index("s3://bucket/nothing")
    name = load_index(bucket).splits["train"].shards[0].name
    fsspec.filesystem("s3").pipe_file(f"bucket/data/{name}", (packed / name).read_bytes() + b"more")
    with pytest.raises(UserError, match=rf"s3://bucket/data/{name}.*changed after indexing"):
        Dataset(bucket, "train", 8, reading=reading(tmp_path / "other")).read(np.array([0]))


def test_a_shard_is_downloaded_once_to_a_node(packed: Path, tmp_path: Path) -> None:
    with serving(packed) as (url, server):
        all_of(Dataset(url, "train", 8, reading=reading(tmp_path)))
        assert sorted(path for path in server.requests if path.endswith(".tar")) == [f"/train-0000{i}.tar" for i in range(3)]
        all_of(Dataset(url, "train", 8, reading=reading(tmp_path)))
        assert len([path for path in server.requests if path.endswith(".tar")]) == 3


def test_two_processes_share_one_copy(packed: Path, tmp_path: Path) -> None:
    code = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(ROOT / "tests")!r})
from test_remote import Dataset, all_of, reading
all_of(Dataset(sys.argv[1], "train", 8, reading=reading(Path({str(tmp_path)!r}))))
"""
    with serving(packed, lambda number, path: "") as (url, server):
        processes = [subprocess.Popen([sys.executable, "-c", code, url], cwd=ROOT) for _ in range(2)]
        assert [process.wait(60) for process in processes] == [0, 0]
        assert len([path for path in server.requests if path.endswith(".tar")]) == 3


def test_the_least_recently_used_shard_is_evicted_and_the_limit_holds(packed: Path, tmp_path: Path) -> None:
    shards = load_index(packed).splits["train"].shards
    limit = shards[0].bytes + shards[1].bytes + 1000
    with serving(packed) as (url, _):
        dataset = Dataset(url, "train", 8, reading=reading(tmp_path, limit))
        for sample in (0, 2048, 4096):
            dataset.read(np.array([sample]))
            held = sum(path.stat().st_size for path in tmp_path.iterdir() if path.is_file())
            assert held <= limit
            time.sleep(0.01)
    assert not (tmp_path / shards[0].sha256).exists()
    assert (tmp_path / shards[2].sha256).exists()


def test_members_are_read_by_range_if_the_cache_is_too_small(packed: Path, tmp_path: Path) -> None:
    local = Dataset(packed, "train", 8).read(np.arange(20))
    with serving(packed, lambda number, path: "cut" if number % 3 == 0 else "") as (url, server):
        remote = Dataset(url, "train", 8, reading=reading(tmp_path, limit_bytes=1000))
        assert np.array_equal(remote.read(np.arange(20)), local)
        assert server.bytes < 200_000  # less than the first shard


@pytest.mark.parametrize("fault", ["404", "hang", "cut"])
def test_a_shard_that_cannot_be_read_is_named(packed: Path, tmp_path: Path, fault: str) -> None:
    with serving(packed, lambda number, path: fault if path == "/train-00001.tar" else "") as (url, _):
        dataset = Dataset(url, "train", 8, reading=replace(reading(tmp_path), retry_policy=replace(QUICK, attempts=2)))
        assert len(dataset.read(np.array([0]))) == 1
        started = time.monotonic()
        with pytest.raises(UserError, match=rf"{url}/train-00001.tar: sample 2048 at byte \d+") as caught:
            dataset.read(np.array([2048]))
        assert isinstance(caught.value, StoreUnavailableError) == (fault != "404"), (
            "a missing file is not retried by a later run"
        )
        assert time.monotonic() - started < 15


def test_the_next_run_reads_again_from_a_store_that_was_unavailable(packed: Path, tmp_path: Path) -> None:
    """A sample that could not be read because its store was unavailable is cached neither as an image nor as bad."""
    unavailable = [True]
    with serving(packed, lambda number, path: "cut" if unavailable and path.endswith(".tar") else "") as (url, _):
        caching = replace(reading(tmp_path), cache="auto")
        with pytest.raises(StoreUnavailableError, match=r"sample 0 at byte \d+ \(member \?\) cannot be read as an image"):
            Dataset(url, "train", 8, 100, reading=caching)
        skipping = Dataset(url, "train", 8, 100, reading=replace(caching, skip_up_to=0.1))
        with pytest.raises(StoreUnavailableError, match=r"11 of 100 samples are bad, 10 may be skipped"):
            skipping.read(np.arange(100))
        unavailable.clear()
        dataset = Dataset(url, "train", 8, 100, reading=caching)
        assert np.array_equal(dataset.read(np.arange(100)), Dataset(packed, "train", 8).read(np.arange(100)))


@pytest.mark.parametrize(
    ("change", "limit"), [(change, limit) for change in ("longer", "shorter", "other bytes") for limit in (2**30, 1000)]
)
def test_a_shard_that_was_changed_after_indexing(packed: Path, tmp_path: Path, change: str, limit: int) -> None:
    root = tmp_path / "changed"
    root.mkdir()
    for path in packed.iterdir():
        data = path.read_bytes()
        if path.name == "val-00000.tar":
            data = {"longer": data + b"x", "shorter": data[:-600], "other bytes": data[:1600] + b"x" * 9 + data[1609:]}[change]
        (root / path.name).write_bytes(data)
    with serving(root) as (url, _), pytest.raises(UserError, match=r"val-00000.tar: sample 0 at byte 1536 \(member"):
        Dataset(url, "val", 8, reading=reading(tmp_path / "cache", limit)).read(np.arange(40))


def test_members_are_read_by_range_if_the_cache_disk_is_full(packed: Path, tmp_path: Path) -> None:
    """The system refuses to write (a limit on file size, in a separate process)."""
    code = f"""
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, {str(ROOT / "tests")!r})
import numpy as np
from test_remote import Dataset, reading
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
remote = Dataset(sys.argv[1], "train", 8, reading=reading(Path({str(tmp_path)!r}))).read(np.arange(30))
assert np.array_equal(remote, Dataset({str(packed)!r}, "train", 8).read(np.arange(30)))
"""
    with serving(packed) as (url, _):
        assert subprocess.run([sys.executable, "-c", code, url], cwd=ROOT, timeout=60, check=False).returncode == 0
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    assert [path.name for path in tmp_path.iterdir()] == ["locks"]  # no partial file is left


def test_a_missing_index(tmp_path: Path) -> None:
    with serving(tmp_path) as (url, _), pytest.raises(UserError, match=r"index.json is missing"):
        load_index(url)
    with pytest.raises(RemoteError, match=r"127.0.0.1:9/index.json"):
        read_index("http://127.0.0.1:9", QUICK)


def test_a_run_retries_a_truncated_index_and_a_plan_reports_it(packed: Path, tmp_path: Path) -> None:
    train = load_index(packed).splits["train"].samples
    with serving(packed, lambda number, path: "cut" if number <= 4 else "") as (url, _):
        (tmp_path / "tiny.yaml").write_text(
            TINY.replace(
                "digits: {generate: digits, image_size: 16}",
                f'digits: {{url: "{url}", train: {train}, classes: 4, eval_split: val}}',
            )
        )
        hasty = prepare(tmp_path / "tiny.yaml", str(tmp_path / "runs"), replace(QUICK, attempts=2))
        with pytest.raises(UserError, match=rf"line 4: .*index.json in {url} cannot be read: "):
            refuse_missing_indexes(hasty)
        assert prepare(tmp_path / "tiny.yaml", str(tmp_path / "runs"), QUICK).plan.missing_indexes == {}


@pytest.mark.parametrize("address", ["pipe:cat x", "pipe://cat x", "file:///etc", "ftp://host/x", "local:///x"])
def test_unsupported_kinds_of_address_are_refused(address: str) -> None:
    with pytest.raises(UserError, match="unsupported kind of address"):
        is_url(address)
