"""The real `model-registry` client, called from synchronous code with timeouts, retries and our errors.

The client's own `ModelRegistry` class patches asyncio for the whole process and its `register_model` is neither atomic
nor repeatable. Its API layer, used here, is the same code underneath, one call at a time.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import stamina

from clusterheal.errors import ClusterhealError, InvalidInput, PermanentError, RetryableError
from clusterheal.settings import RegistrySettings

if TYPE_CHECKING:
    from model_registry.core import ModelRegistryAPIClient

log = logging.getLogger(__name__)
T = TypeVar("T")


class Conflict(PermanentError):
    """The registry answered 409: the name is taken."""


class _Loop:
    """An event loop in a thread of its own, so that calls work with and without a loop in the caller's thread."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()

    def run(self, call: Coroutine[Any, Any, T], timeout: timedelta) -> T:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, daemon=True, name="registry-client").start()

        async def bounded() -> T:
            async with asyncio.timeout(timeout.total_seconds()):
                return await call

        return asyncio.run_coroutine_threadsafe(bounded(), self._loop).result()


_loop = _Loop()


class RegistryClient:
    """Calls the API of one registry. The token is read again for every call, since it rotates."""

    def __init__(self, settings: RegistrySettings) -> None:
        self._settings = settings
        self._url = str(settings.url).rstrip("/")

    def call(self, make: Callable[[ModelRegistryAPIClient], Coroutine[Any, Any, T]]) -> T:
        """Run one API call, again on timeouts and 5xx (bounded, with jitter).

        Raises:
            Conflict: 409.
            RetryableError: still no good answer after the last attempt.
            PermanentError: 401, 403, a bad certificate.
            InvalidInput: 400 or 422.
        """
        for attempt in stamina.retry_context(
            on=RetryableError, attempts=self._settings.attempts, timeout=None, wait_initial=0.1, wait_max=2.0
        ):
            with attempt:
                return self._once(make)
        raise AssertionError("unreachable: the retry context returns or raises")

    def _once(self, make: Callable[[ModelRegistryAPIClient], Coroutine[Any, Any, T]]) -> T:
        import aiohttp
        from mr_openapi.exceptions import ApiException

        try:
            return _loop.run(make(self._api()), self._settings.timeout)
        except ApiException as exc:
            raise self._translate(exc) from exc
        except aiohttp.ClientConnectorCertificateError as exc:
            raise PermanentError(
                f"registry {self._url}: its certificate is not trusted ({exc}); set registry.ca_file"
            ) from exc
        except (aiohttp.ClientError, TimeoutError, OSError) as exc:
            raise RetryableError(
                f"registry {self._url} does not answer ({type(exc).__name__}: {exc}); is registry.url right?"
            ) from exc

    def _api(self) -> ModelRegistryAPIClient:
        from model_registry.core import ModelRegistryAPIClient

        port = self._settings.url.port or (443 if self._settings.url.scheme == "https" else 80)
        token = _read_token(self._settings.token_file)
        if self._settings.url.scheme == "http":  # also turns certificate checks off: never pass https through here
            return ModelRegistryAPIClient.insecure_connection(self._url, port, token)
        if token is None:
            raise InvalidInput(f"registry {self._url} is https and needs a bearer token; set registry.token_file")
        ca = str(self._settings.ca_file) if self._settings.ca_file else None
        return ModelRegistryAPIClient.secure_connection(self._url, port, user_token=token, custom_ca=ca)

    def _translate(self, exc: Any) -> ClusterhealError:
        status = int(exc.status or 0)
        said = f"registry {self._url} answered {status} {exc.reason}: {str(exc.body or '')[:300]}"
        if status == 409:
            return Conflict(said)
        if status in (401, 403):
            return PermanentError(f"{said}; registry.token_file needs an account that may use the registry")
        if status in (400, 422):
            return InvalidInput(said)
        if status == 404:
            return PermanentError(f"{said}; does registry.url end at the registry's root, without the API prefix?")
        if status == 429 or status >= 500:
            return RetryableError(said)
        return PermanentError(said)


def _read_token(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        return path.read_text().strip()
    except OSError as exc:
        raise InvalidInput(f"registry.token_file {path} cannot be read: {exc}") from exc
