from __future__ import annotations

import resource
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from clusterheal.errors import PermanentError
from clusterheal.local.generator import Series
from clusterheal.local.prometheus import PrometheusSpec, configuration, require_binaries
from clusterheal.local.prometheus_history import create_blocks, escape_label, write_openmetrics


def series(values: list[float], *, name: str = "load", **labels: str) -> Series:
    times = 1_000 + 60 * np.arange(len(values), dtype=np.int64)
    return Series(name=name, labels=labels, times=times, values=np.array(values, np.float64))


def test_samples_are_cut_by_time_into_files_and_none_is_lost(tmp_path: Path) -> None:
    files = [tmp_path / "a", tmp_path / "b"]
    count = write_openmetrics([series([1, 2, 3, 4])], files, start=1_000, end=1_180)
    assert count == 4
    assert files[0].read_text().splitlines() == ["load{} 1 1000", "load{} 2 1060", "# EOF"]
    assert files[1].read_text().splitlines() == ["load{} 3 1120", "load{} 4 1180", "# EOF"]


def test_a_missing_sample_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "a"
    assert write_openmetrics([series([1, np.nan, 3])], [file], start=1_000, end=1_120) == 2
    assert "nan" not in file.read_text().lower()


def test_a_series_without_samples_in_a_span_is_not_written_there(tmp_path: Path) -> None:
    files = [tmp_path / "a", tmp_path / "b"]
    write_openmetrics([series([1, 2, np.nan, np.nan])], files, start=1_000, end=1_180)
    assert files[1].read_text() == "# EOF\n"


def test_label_values_survive_quotes_backslashes_newlines_and_percent_signs(tmp_path: Path) -> None:
    assert escape_label('a"b\\c\nd') == 'a\\"b\\\\c\\nd'
    file = tmp_path / "a"
    write_openmetrics([series([1], path='100%s "x"')], [file], start=1_000, end=1_000)
    assert file.read_text().splitlines()[0] == 'load{path="100%s \\"x\\""} 1 1000'


def test_counters_keep_enough_digits_for_their_rates(tmp_path: Path) -> None:
    file = tmp_path / "a"
    write_openmetrics([series([123456789012.0], name="bytes_total")], [file], start=1_000, end=1_000)
    assert file.read_text().startswith("bytes_total{} 123456789012 ")


def test_a_full_disk_is_an_error_that_says_where(tmp_path: Path) -> None:
    script = textwrap.dedent(
        f"""
        import numpy as np, sys
        from pathlib import Path
        from clusterheal.errors import PermanentError
        from clusterheal.local.generator import Series
        from clusterheal.local.prometheus_history import write_openmetrics
        times = np.arange(200_000, dtype=np.int64)
        many = [Series(name="x", labels={{}}, times=times, values=times * 1.0)]
        try:
            write_openmetrics(many, [Path({str(tmp_path / "f")!r})], start=0, end=200_000)
        except PermanentError as exc:
            print(exc)
            sys.exit(7)
        """
    )

    def small_files() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, 64 * 1024))

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, preexec_fn=small_files)
    assert done.returncode == 7, done.stderr
    assert f"cannot write the metrics' history to {tmp_path}" in done.stdout


def test_without_promtool_the_error_names_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PermanentError, match=r"promtool is not on PATH.*apt-get install prometheus"):
        create_blocks([], tmp_path / "data")
    with pytest.raises(PermanentError, match=r"prometheus, promtool not found on PATH; install with: apt-get"):
        require_binaries("prometheus", "promtool")


def test_live_samples_get_no_labels_that_the_history_lacks(tmp_path: Path) -> None:
    spec = PrometheusSpec(folder=tmp_path, port=1, exporter_port=2, alertmanager_port=None, step_seconds=60)
    (job,) = configuration(spec)["scrape_configs"]
    assert job["honor_labels"] is True
    assert {"regex": "job", "action": "labeldrop"} in job["metric_relabel_configs"]
    assert "alerting" not in configuration(spec)
