"""One HTTP exchange with a Prometheus: credentials, limits, and errors named by who has to act."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from clusterheal import __version__
from clusterheal.clock import Clock
from clusterheal.errors import InvalidInput, PermanentError, RetryableError
from clusterheal.metrics.parser import Envelope, parse_envelope
from clusterheal.metrics.retry import RetryLater, retry_after_seconds
from clusterheal.settings import PrometheusSettings

RETRYABLE_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
MAX_ERROR_BODY = 64 << 10
TURN_SECONDS = 5.0
"""An answer that has come waits so long at most for its turn to be read: proxies cut connections that nobody reads."""
_TOO_MUCH = ("too many samples", "maximum resolution", "exceeds the limit", "limit reached", "would load too many")


class AnswerTooLarge(Exception):
    """The server refuses the amount, not the query: ask for fewer steps."""


class Exchange:
    """Sends requests, at most `settings.concurrency` at a time; no retries here."""

    def __init__(
        self, settings: PrometheusSettings, *, clock: Clock, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._slots = asyncio.Semaphore(settings.concurrency)
        self._reading = asyncio.Lock()
        self._http = httpx.AsyncClient(
            base_url=str(settings.url),
            timeout=httpx.Timeout(settings.timeout.total_seconds()),
            limits=httpx.Limits(max_connections=settings.concurrency, max_keepalive_connections=settings.concurrency),
            verify=tls_context(settings.ca_file) if settings.url.scheme == "https" else False,
            headers={
                "User-Agent": f"clusterheal/{__version__}",
                "Accept": "application/json",
                "Accept-Encoding": "gzip" if settings.compress else "identity",
            },
            # in the URL, not the form: the proxy before Thanos decides on it without reading the body
            params={"namespace": settings.namespace} if settings.namespace else None,
            follow_redirects=False,
            trust_env=False,
            transport=transport,
        )

    async def aclose(self) -> None:
        await self._http.aclose()

    @asynccontextmanager
    async def post(self, path: str, form: Mapping[str, str]) -> AsyncIterator[httpx.Response]:
        """POST a form; the body of the answer is still to be read, within the same time limit.

        Answers are read one after the other: while one is parsed the server works on the next, whereas answers read
        side by side would all be complete at once, and the server idle before and after.

        Raises:
            RetryableError: timeouts, resets, cut answers, 429 and 5xx.
            InvalidInput: the server does not understand the query.
            AnswerTooLarge: it understands, but refuses the amount.
            PermanentError: everything else that is not success.
        """
        request = self._http.build_request(
            "POST", path, data=dict(form), headers=authorization(self._settings.token_file)
        )
        async with self._slots:
            try:
                async with asyncio.timeout(self._settings.timeout.total_seconds()) as limit:
                    response = await self._http.send(request, stream=True)
                    try:
                        if response.status_code != httpx.codes.OK:
                            await self._refuse(response)
                        async with self._turn(limit):
                            yield response
                    finally:
                        await response.aclose()
            except TimeoutError as exc:
                allowed = self._settings.timeout
                raise RetryableError(f"{self._settings.url}: no complete answer within {allowed}") from exc
            except httpx.ConnectError as exc:
                raise self._no_connection(exc) from exc
            except (httpx.TransportError, httpx.DecodingError) as exc:
                kind = type(exc).__name__
                raise RetryableError(f"{self._settings.url}: the exchange broke off ({kind}: {exc})") from exc

    @asynccontextmanager
    async def _turn(self, limit: asyncio.Timeout) -> AsyncIterator[None]:
        """Wait to be the only one that reads, `TURN_SECONDS` at most; `limit` does not run meanwhile."""
        loop = asyncio.get_running_loop()
        left = (limit.when() or 0.0) - loop.time()
        limit.reschedule(None)
        try:
            async with asyncio.timeout(TURN_SECONDS):
                await self._reading.acquire()
            alone = True
        except TimeoutError:
            alone = False
        limit.reschedule(loop.time() + left)
        try:
            yield
        finally:
            if alone:
                self._reading.release()

    def _no_connection(self, exc: httpx.ConnectError) -> PermanentError | RetryableError:
        if "CERTIFICATE_VERIFY_FAILED" in str(exc):
            return PermanentError(
                f"{self._settings.url}: its certificate is not trusted ({exc}); "
                "set prometheus.ca_file to the CA bundle that signed it (on OpenShift the service-ca ConfigMap)"
            )
        return RetryableError(f"{self._settings.url}: cannot connect ({exc}); is Prometheus up, and the address right?")

    async def _refuse(self, response: httpx.Response) -> None:
        status, url = response.status_code, self._settings.url
        if response.is_redirect:
            target = response.headers.get("Location", "nowhere")
            raise PermanentError(f"{url}: redirects to {target}; set prometheus.url to where the API really is")
        body = await _read_some(response)
        envelope = _error_of(body)
        said = (envelope.error if envelope and envelope.error else None) or _text(body, response)
        if status in (401, 403):
            raise PermanentError(f"{url}: answered {status}, {said}; check prometheus.token_file and its rights")
        if envelope and envelope.error and any(phrase in envelope.error for phrase in _TOO_MUCH):
            raise AnswerTooLarge(envelope.error)
        if status in RETRYABLE_STATUS:
            after = retry_after_seconds(response.headers.get("Retry-After"), self._clock.now())
            raise RetryLater(f"{url}: answered {status}, {said}", after=after)
        if status in (400, 422) and envelope:
            raise InvalidInput(f"{url}: refused the query, {envelope.error_type}: {said}")
        raise PermanentError(f"{url}: answered {status}, {said}; is this the root address of a Prometheus?")


def authorization(token_file: Path | None) -> dict[str, str]:
    """The header with the bearer token, read anew since it rotates; nothing without a file.

    Raises:
        PermanentError: it cannot be read, or holds no token.
    """
    if token_file is None:
        return {}
    try:
        token = token_file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise PermanentError(
            f"bearer token file {token_file} cannot be read: {exc}; check prometheus.token_file"
        ) from exc
    if not token or not token.isascii() or any(c.isspace() for c in token):
        raise PermanentError(f"bearer token file {token_file} holds no token; expected one word")
    return {"Authorization": f"Bearer {token}"}


def tls_context(ca_file: Path | None) -> ssl.SSLContext:
    """Verifying with this CA bundle, or the system's. Raises InvalidInput."""
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as exc:
        raise InvalidInput(f"CA bundle {ca_file} cannot be read: {exc}; check prometheus.ca_file") from exc


async def _read_some(response: httpx.Response) -> bytes:
    body = b""
    async for piece in response.aiter_bytes():
        body += piece
        if len(body) > MAX_ERROR_BODY:
            break
    return body


def _error_of(body: bytes) -> Envelope | None:
    try:
        return parse_envelope(body)
    except (PermanentError, RetryableError):
        return None


def _text(body: bytes, response: httpx.Response) -> str:
    kind = response.headers.get("Content-Type", "no content type")
    return f"{kind}: {body[:120].decode(errors='replace')!r}"
