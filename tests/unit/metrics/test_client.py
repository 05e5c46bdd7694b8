"""The range client against a server that goes wrong in every way that servers do."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trustme

from clusterheal.errors import InvalidInput, PermanentError, RetryableError
from clusterheal.metrics.client import PrometheusClient
from clusterheal.metrics.retry import retry_after_seconds
from clusterheal.settings import PrometheusSettings

MINUTE = timedelta(minutes=1)
Make = Callable[..., PrometheusClient]


def _expected(value: Any, start: datetime, n: int) -> np.ndarray:
    first = int(start.timestamp())
    return np.array([value(first + 60 * i) for i in range(n)], np.float32)


async def _pull(client: PrometheusClient, start: datetime, minutes: int = 100) -> Any:
    async with client:
        return await client.query_range("m", start=start, end=start + minutes * MINUTE, step=MINUTE)


async def test_long_windows_are_split_and_put_together(prometheus, make_client: Make, wave, start) -> None:
    prometheus.series["m"] = [({"i": str(i)}, wave(i)) for i in range(3)]
    frame = await _pull(make_client(max_points=30), start, 299)
    sizes = [(float(r["end"]) - float(r["start"])) / 60 + 1 for r in prometheus.range_requests()]
    assert max(sizes) <= 30
    assert len(sizes) % 4 == 0
    assert [labels["i"] for labels in frame.labels] == ["0", "1", "2"]
    for i in range(3):
        np.testing.assert_array_equal(frame.values[:, i], _expected(wave(i), start, 300))


async def test_missing_points_are_nan_and_odd_numbers_stay(prometheus, make_client: Make, start) -> None:
    special = {0: np.inf, 60: -np.inf, 120: float("nan"), 180: None, 240: 1e300, 300: -0.0}
    begin = int(start.timestamp())
    prometheus.series["m"] = [({}, lambda t: special.get(t - begin, 5.0))]
    frame = await _pull(make_client(), start, 6)
    values = frame.values[:, 0]
    assert values[0] == np.inf
    assert values[1] == -np.inf
    assert np.isnan(values[2])
    assert np.isnan(values[3])
    assert values[4] == np.inf, "beyond float32"
    assert np.signbit(values[5])
    assert values[6] == 5


@pytest.mark.parametrize("fault", ["cut", "cut_without_length", "reset", "busy", "overload", "half_json"])
async def test_passing_faults_are_repeated(prometheus, make_client: Make, faults, wave, start, clock, fault) -> None:
    prometheus.series["m"] = [({"i": str(i)}, wave(i)) for i in range(20)]
    kinds = {
        "busy": faults.status(429),
        "overload": faults.status(503),
        "half_json": faults.says(
            b'{"status":"success","data":{"resultType":"matrix","result":[{"metric":{},"values":[[1'
        ),
    }
    bad = kinds.get(fault) or getattr(faults, fault)
    prometheus.faults = [bad, None, bad]
    frame = await _pull(make_client(max_points=60), start)
    assert len(prometheus.range_requests()) == 6
    assert 1 <= len(clock.slept) <= 2
    for i, labels in enumerate(frame.labels):
        np.testing.assert_array_equal(frame.values[:, i], _expected(wave(int(labels["i"])), start, 101))


async def test_repeats_are_bounded(prometheus, make_client: Make, faults, start, clock) -> None:
    prometheus.faults = [faults.status(503, "no store is up")] * 9
    with pytest.raises(RetryableError, match=r"503.*no store is up"):
        await _pull(make_client(attempts=3), start)
    assert len(prometheus.range_requests()) == 3
    assert len(clock.slept) == 2


async def test_retry_after_is_honoured_up_to_a_limit(prometheus, make_client: Make, faults, start, clock) -> None:
    prometheus.faults = [faults.status(429, Retry_After="7")]
    await _pull(make_client(), start)
    assert 7 <= clock.slept[0] < 8
    prometheus.faults = [faults.status(429, Retry_After="3600")]
    with pytest.raises(RetryableError, match="429"):
        await _pull(make_client(), start)


def test_retry_after_may_be_a_date(clock) -> None:
    later = clock.now() + timedelta(seconds=90)
    assert retry_after_seconds(later.strftime("%a, %d %b %Y %H:%M:%S GMT"), clock.now()) == 90
    assert retry_after_seconds("soon", clock.now()) is None


async def test_a_dripping_answer_runs_into_the_limit_of_the_whole_request(
    prometheus, make_client: Make, faults, start, wave
) -> None:
    prometheus.series["m"] = [({}, wave(0))]
    prometheus.faults = [faults.drip]
    with pytest.raises(RetryableError, match="no complete answer within"):
        await _pull(make_client(timeout=0.3, attempts=1), start)


async def test_a_login_page_is_not_a_prometheus(prometheus, make_client: Make, faults, start) -> None:
    prometheus.faults = [faults.html]
    with pytest.raises(PermanentError, match="is this the address of a Prometheus"):
        await _pull(make_client(), start)
    assert len(prometheus.requests) == 1


@pytest.mark.parametrize(
    "text",
    [b"[]", b"{}", b'"x"', b'{"status":"success","data":{"resultType":"vector","result":[]}}',
     b'{"status":"success","data":{"resultType":"matrix","result":[1]}}',
     b'{"status":"success","data":{"resultType":"matrix","result":[{"metric":{},"values":[[1,"x"]]}]}}',
     b'{"status":"success","data":{"resultType":"matrix","result":[{"metric":{},"values":[["1","2"]]}]}}'],
)  # fmt: skip
async def test_other_json_is_refused(prometheus, make_client: Make, faults, start, text) -> None:
    prometheus.faults = [faults.says(text)]
    with pytest.raises(PermanentError, match="expected"):
        await _pull(make_client(), start)


async def test_gzip_is_read_although_not_asked_for(prometheus, make_client: Make, faults, wave, start) -> None:
    prometheus.series["m"] = [({}, wave(0))]
    prometheus.faults = [faults.gzipped]
    frame = await _pull(make_client(), start)
    np.testing.assert_array_equal(frame.values[:, 0], _expected(wave(0), start, 101))
    assert prometheus.requests[0]["headers"]["Accept-Encoding"] == "identity"


async def test_redirects_are_not_followed_with_the_token(prometheus, make_client: Make, faults, start) -> None:
    prometheus.faults = [faults.status(302, Location="https://elsewhere.example/login")]
    with pytest.raises(PermanentError, match=r"redirects to https://elsewhere\.example/login"):
        await _pull(make_client(), start)


@pytest.mark.parametrize("status", [401, 403])
async def test_refused_credentials_name_the_token(prometheus, make_client: Make, faults, start, status) -> None:
    prometheus.faults = [faults.status(status, "no")]
    with pytest.raises(PermanentError, match=f"{status}.*token_file"):
        await _pull(make_client(), start)


async def test_a_query_that_does_not_parse_is_the_callers_fault(prometheus, make_client: Make, faults, start) -> None:
    error = '{"status":"error","errorType":"bad_data","error":"parse error: unexpected end of input"}'
    prometheus.faults = [faults.status(400, error)]
    with pytest.raises(InvalidInput, match=r"bad_data.*unexpected end"):
        await _pull(make_client(), start)


async def test_answers_too_large_for_the_server_are_asked_for_in_halves(
    prometheus, make_client: Make, wave, start
) -> None:
    prometheus.series["m"] = [({"i": str(i)}, wave(i)) for i in range(10)]
    prometheus.samples_limit = 300
    frame = await _pull(make_client(), start)
    assert frame.values.shape == (101, 10)
    assert not np.isnan(frame.values).any()


async def test_one_step_that_is_too_large_is_an_error(prometheus, make_client: Make, wave, start) -> None:
    prometheus.series["m"] = [({"i": str(i)}, wave(i)) for i in range(10)]
    prometheus.samples_limit = 5
    with pytest.raises(PermanentError, match="one step is too much"):
        await _pull(make_client(), start)


async def test_token_is_read_again_and_tenant_is_in_the_url(
    prometheus, make_client: Make, start, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("first\n")
    client = make_client(token_file=token, namespace="shop")
    async with client:
        await client.query("m")
        token.write_text("second\n")
        await client.query("m")
    assert [r["headers"]["Authorization"] for r in prometheus.requests] == ["Bearer first", "Bearer second"]
    assert [r["params"] for r in prometheus.requests] == [{"namespace": "shop"}] * 2


@pytest.mark.parametrize("content", [None, "", "two words"])
async def test_an_unusable_token_file_is_named(make_client: Make, start, tmp_path: Path, content) -> None:
    token = tmp_path / "token"
    if content is not None:
        token.write_text(content)
    with pytest.raises(PermanentError, match="token"):
        await _pull(make_client(token_file=token), start)


async def test_warnings_become_findings(prometheus, make_client: Make, wave, start) -> None:
    prometheus.series["m"] = [({}, wave(0))]
    prometheus.warnings = ['partial response: "result":[ of store eu-1 is missing']
    client = make_client()
    frame = await _pull(client, start)
    assert frame.values.shape == (101, 1)
    assert [(f.code, f.severity, f.subject) for f in client.findings] == [("server-warning", "warning", "m")]
    assert "store eu-1" in client.findings[0].detail


async def test_answers_that_disagree_where_they_overlap_are_found(prometheus, make_client: Make, start) -> None:
    prometheus.series["m"] = [({}, lambda t: float(len(prometheus.requests)))]
    client = make_client(max_points=30, concurrency=1)
    await _pull(client, start)
    assert [f.code for f in client.findings] == ["chunks-disagree"]


async def test_native_histograms_are_refused_by_name(prometheus, make_client: Make, faults, start) -> None:
    text = b'{"status":"success","data":{"resultType":"matrix","result":[{"metric":{"__name__":"lat"},%b}]}}'
    histograms = b'"histograms":[[1,{"count":"1","sum":"2"}]]'
    for points in (histograms, b'"values":[[1793491200,"1"]],' + histograms):
        prometheus.faults = [faults.says(text % points)]
        with pytest.raises(PermanentError, match=r"lat.*native histograms.*histogram_quantile"):
            await _pull(make_client(), start)


async def test_a_series_twice_in_one_answer_is_refused(prometheus, make_client: Make, start, wave) -> None:
    prometheus.series["m"] = [({"a": "b"}, wave(0)), ({"a": "b"}, wave(1))]
    with pytest.raises(PermanentError, match="twice"):
        await _pull(make_client(), start)


async def test_windows_that_make_no_sense(make_client: Make, start, clock) -> None:
    async with make_client() as client:
        with pytest.raises(InvalidInput, match="before it starts"):
            await client.query_range("m", start=start, end=start - MINUTE, step=MINUTE)
        with pytest.raises(InvalidInput, match="in the future"):
            await client.query_range("m", start=clock.now() + 5 * MINUTE, end=clock.now() + 9 * MINUTE, step=MINUTE)
        for step in (timedelta(0), -MINUTE, timedelta(microseconds=1500)):
            with pytest.raises(InvalidInput, match="positive whole number of milliseconds"):
                await client.query_range("m", start=start, end=start + MINUTE, step=step)
        with pytest.raises(InvalidInput, match="time zone"):
            await client.query_range("m", start=start.replace(tzinfo=None), end=start, step=MINUTE)


async def test_no_series_is_a_frame_without_columns(make_client: Make, start) -> None:
    frame = await _pull(make_client(), start)
    assert frame.values.shape == (101, 0)


async def test_nobody_listens(start, clock) -> None:
    settings = PrometheusSettings(url="http://127.0.0.1:1", attempts=2)
    with pytest.raises(RetryableError, match=r"cannot connect.*is Prometheus up"):
        await _pull(PrometheusClient(settings, clock=clock), start)


async def test_an_unknown_certificate_names_the_ca_setting(start, clock, tmp_path: Path) -> None:
    import ssl
    import threading
    from http.server import BaseHTTPRequestHandler, HTTPServer

    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    server = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=lambda: server.serve_forever(poll_interval=0.01), daemon=True).start()
    try:
        url = f"https://127.0.0.1:{server.server_address[1]}"
        with pytest.raises(PermanentError, match=r"not trusted.*prometheus\.ca_file"):
            await _pull(PrometheusClient(PrometheusSettings(url=url), clock=clock), start)
        bundle = tmp_path / "ca.pem"
        authority.cert_pem.write_to_path(str(bundle))
        with pytest.raises(PermanentError, match="501"):  # trusted, though it is no Prometheus
            await _pull(PrometheusClient(PrometheusSettings(url=url, ca_file=bundle), clock=clock), start)
    finally:
        server.shutdown()
        server.server_close()
    with pytest.raises(InvalidInput, match="CA bundle"):
        PrometheusClient(PrometheusSettings(url=url, ca_file=tmp_path / "absent.pem"), clock=clock)


async def test_the_client_needs_neither_pyarrow_nor_pandas_nor_plotly() -> None:
    import subprocess
    import sys

    code = (
        "import sys, clusterheal.metrics.client, clusterheal.metrics.live, clusterheal.metrics.catalogue\n"
        "print([m for m in ('pyarrow', 'pandas', 'plotly', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
