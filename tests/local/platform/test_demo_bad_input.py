"""What the demo refuses, each with one line, a non-zero exit, and nothing left running or half-done."""

from __future__ import annotations

import http.server
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import trustme

pytestmark = [pytest.mark.local, pytest.mark.timeout(120)]
CLI = (sys.executable, "-m", "clusterheal.cli", "demo")


def demo(out: Path, *options: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [*CLI, "--out", str(out), *options]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=100, check=False, env={**os.environ, **(env or {})}
    )


def complaint(done: subprocess.CompletedProcess[str]) -> str:
    """The error, which is never a traceback."""
    assert done.returncode not in (0, None)
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("clusterheal: ")
    return done.stderr


def left_behind(out: Path) -> list[str]:
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or [])
        if str(out) in line and process.pid != os.getpid():
            found.append(line)
    return found


def test_no_prometheus_binary(tmp_path: Path) -> None:
    done = demo(tmp_path / "out", env={"PATH": str(tmp_path)})
    assert "prometheus, promtool, prometheus-alertmanager not found on PATH; install with: apt-get" in complaint(done)
    assert not (tmp_path / "out").exists()


def test_a_taken_port(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = demo(tmp_path / "out", "--first-port", str(port))
    assert f"port {port} for the demo's prometheus is taken" in complaint(done)
    assert not (tmp_path / "out").exists()


def test_a_folder_with_other_peoples_files_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    assert "holds files that no demo wrote" in complaint(demo(tmp_path))
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_an_unknown_fault_names_those_there_are(tmp_path: Path) -> None:
    done = demo(tmp_path / "out", "--fault", "earthquake")
    assert "expected one of memory-leak, bad-rollout, cpu-saturation" in complaint(done)


def test_a_corrupt_recording(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"PAR1 not really PAR1")
    done = demo(tmp_path / "out", "--data", str(tmp_path / "x.parquet"))
    assert "cannot be read as Parquet" in complaint(done)


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
    assert "401" in complaint(done)
    assert left_behind(tmp_path / "out") == []


def test_a_prometheus_whose_certificate_nobody_vouches_for(tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    with refusing_server(context) as port:
        done = demo(tmp_path / "out", "--prometheus-url", f"https://127.0.0.1:{port}")
    assert "certificate" in complaint(done).lower()


def started(out: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [*CLI, "--out", str(out), "--days", "7"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not (out / "kubeconfig").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_ends_everything_and_is_told(tmp_path: Path, number: signal.Signals) -> None:
    process = started(tmp_path / "out")
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert f"interrupted by {number.name}" in errors
    assert left_behind(tmp_path / "out") == []


def test_a_killed_part_is_named(tmp_path: Path) -> None:
    process = started(tmp_path / "out")
    (emulator,) = [p for p in psutil.Process(process.pid).children() if "emulator" in p.cmdline()]
    emulator.kill()
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "kubernetes was killed by SIGKILL" in errors
    assert left_behind(tmp_path / "out") == []
