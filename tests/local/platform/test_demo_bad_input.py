"""What the demo refuses, each with one line, a non-zero exit, and nothing left running or half-done."""

from __future__ import annotations

import http.server
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import trustme
from demo_kit import CLI, demo, left_behind, require_complaint

pytestmark = [pytest.mark.local, pytest.mark.timeout(120)]
ROOT = Path(__file__).resolve().parents[3]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from benchmarks.real_prometheus import RealPrometheus  # noqa: E402
from clusterheal.local.prometheus_backfill import BackfillConfig, backfill  # noqa: E402


def complaint_of(done: subprocess.CompletedProcess[str]) -> str:
    return require_complaint(done.returncode, done.stderr)


def test_no_prometheus_binary(tmp_path: Path) -> None:
    done = demo(tmp_path / "out", env={"PATH": str(tmp_path)})
    assert "prometheus, promtool, prometheus-alertmanager not found on PATH; install with: apt-get" in complaint_of(
        done
    )
    assert not (tmp_path / "out").exists()


def test_a_taken_port(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = demo(tmp_path / "out", "--first-port", str(port))
    assert f"port {port} for the demo's prometheus is taken" in complaint_of(done)
    assert not (tmp_path / "out").exists()


def test_a_folder_with_other_peoples_files_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    assert "holds files that no demo wrote" in complaint_of(demo(tmp_path))
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_an_unknown_fault_names_those_there_are(tmp_path: Path) -> None:
    done = demo(tmp_path / "out", "--fault", "earthquake")
    assert "expected one of memory-leak, bad-rollout, cpu-saturation" in complaint_of(done)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--days", "2"), "--days 2: expected 7 to 60 days of history"),
        (("--train-seconds", "0"), "--train-seconds 0: expected more than 0"),
        (("--series", "x*"), "give --data, too"),
        (("--token-file", "token"), "--token-file and --ca-file are for --prometheus-url"),
        (("--data", ".", "--prometheus-url", "http://127.0.0.1:1"), "two sources; give one of them"),
        (("--data", ".", "--days", "9"), "the recordings' length counts"),
        (("--models-of", "nowhere"), "nowhere/run.json not found"),
        (("--models-of", ".", "--train-seconds", "9"), "--models-of trains nothing"),
    ],
)
def test_options_that_make_no_sense(tmp_path: Path, options: tuple[str, ...], told: str) -> None:
    assert told in complaint_of(demo(tmp_path / "out", *options))
    assert not (tmp_path / "out").exists()


ROWS = 6 * 288  # six days at 300 s
NOISE = np.random.default_rng(1).random(ROWS)


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({"t": np.arange(ROWS) * 300, "m00": np.full(ROWS, np.nan)}, "every metric is NaN throughout"),
        ({"t": np.arange(ROWS) * 300, "m00": np.ones(ROWS)}, "no metric ever changes"),
        ({"t": np.arange(288) * 300, "m00": NOISE[:288]}, "expected at least 3 days"),
        ({"t": [], "m00": []}, "t must rise and have at least two rows, got 0 rows"),
        ({"name": ["a"], "age": [1]}, "expected a column t (unix seconds) and metrics m00, m01 ..., got ['name'"),
        (None, "cannot be read as Parquet"),
    ],
)
def test_recordings_that_teach_nothing(tmp_path: Path, columns: dict[str, object] | None, told: str) -> None:
    path = tmp_path / "x.parquet"
    if columns is None:
        path.write_bytes(b"PAR1 not really PAR1")
    else:
        pq.write_table(pa.table(columns), path)
    assert told in complaint_of(demo(tmp_path / "out", "--data", str(path)))
    assert not (tmp_path / "out").exists()


def test_an_unreachable_prometheus(tmp_path: Path) -> None:
    done = demo(tmp_path / "out", "--prometheus-url", "http://127.0.0.1:1")
    assert "http://127.0.0.1:1/: cannot connect" in complaint_of(done)
    assert "is Prometheus up, and the address right?" in done.stderr
    assert left_behind(tmp_path / "out") == []


def test_a_prometheus_without_history(tmp_path: Path) -> None:
    with RealPrometheus(tmp_path / "empty") as server:
        done = demo(tmp_path / "out", "--prometheus-url", server.url)
    assert "no series for any of the 26 features of catalogue default" in complaint_of(done)
    assert left_behind(tmp_path / "out") == []


def test_a_prometheus_with_too_short_a_history(tmp_path: Path) -> None:
    end = int(time.time()) // 60 * 60
    backfill(BackfillConfig(folder=str(tmp_path / "short"), start=end - 86_400, end=end))
    with RealPrometheus(tmp_path / "short") as server:
        done = demo(tmp_path / "out", "--prometheus-url", server.url)
    assert "none has samples in more than half of the 11520 steps" in complaint_of(done)
    assert "give --days the time that the server keeps" in done.stderr
    assert left_behind(tmp_path / "out") == []


def test_a_full_disk(tmp_path: Path) -> None:
    small, out = tmp_path / "small", tmp_path / "small" / "out"
    small.mkdir()
    mount = f"mount -t tmpfs -o size=48m none {small}"
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-m", "sh", "-c", mount], check=False).returncode:
        pytest.skip("this user may not mount a small disk (needs unshare, and root or user namespaces)")
    script = f'{mount} && "$@"; code=$?; find {out} -size +40M; exit $code'
    command = ["unshare", "-m", "sh", "-c", script, "sh", *CLI, "--out", str(out), "--days", "7"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert "No space left on device" in complaint_of(done)
    assert f"cannot write the metrics' history to {out}" in done.stderr
    assert "history-" not in done.stdout, "half of a history was left behind"
    assert left_behind(out) == []


@contextmanager
def refusing_server(context: ssl.SSLContext | None = None) -> Iterator[int]:
    """A Prometheus behind a proxy that answers 401 to everything."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def refuse(self) -> None:
            self.send_response(401)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_POST = refuse  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


def test_a_prometheus_that_wants_a_token(tmp_path: Path) -> None:
    with refusing_server() as port:
        done = demo(tmp_path / "out", "--prometheus-url", f"http://127.0.0.1:{port}")
    assert "401" in complaint_of(done)
    assert left_behind(tmp_path / "out") == []


def test_a_prometheus_whose_certificate_nobody_vouches_for(tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    with refusing_server(context) as port:
        done = demo(tmp_path / "out", "--prometheus-url", f"https://127.0.0.1:{port}")
    assert "certificate" in complaint_of(done).lower()
