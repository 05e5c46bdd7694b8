"""The engine's connection to Alertmanager: which alerts are silenced."""

from __future__ import annotations

import logging

import httpx

from clusterheal.clock import Clock
from clusterheal.engine.signals.silences import Silences, parse_silences
from clusterheal.errors import ClusterhealError
from clusterheal.metrics.http import authorization, tls_context
from clusterheal.settings import PrometheusSettings

log = logging.getLogger(__name__)

TIMEOUT = httpx.Timeout(5.0, connect=2.0)  # each round asks: an address that drops packets must not hold it up


class SilenceReader:
    """Reads the silences once a round, with the credentials for Prometheus: on OpenShift both are the monitoring
    stack's, and the account needs Role `monitoring-alertmanager-view` there.
    """

    def __init__(
        self, url: str, settings: PrometheusSettings, clock: Clock, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._last = Silences()
        self._http = httpx.AsyncClient(
            base_url=url,
            timeout=TIMEOUT,
            verify=tls_context(settings.ca_file) if url.startswith("https") else False,
            follow_redirects=False,
            trust_env=False,
            transport=transport,
        )

    @property
    def last(self) -> Silences:
        """What the last read gave, without asking again."""
        return self._last

    async def read(self) -> Silences:
        """The silences now, or the last ones known and what went wrong since."""
        try:
            response = await self._http.get("/api/v2/silences", headers=authorization(self._settings.token_file))
            response.raise_for_status()
            known = parse_silences(response.json())
        except (httpx.HTTPError, ValueError, ClusterhealError) as exc:
            problem = f"{self._http.base_url}: silences cannot be read: {str(exc) or type(exc).__name__}"
            if problem != self._last.problem:
                log.warning("silences cannot be read; no action is allowed without them", extra={"error": problem})
            self._last = Silences(known=self._last.known, read_at=self._last.read_at, problem=problem)
        else:
            if self._last.problem is not None:
                log.info("silences are read again", extra={"url": str(self._http.base_url)})
            self._last = Silences(known=known, read_at=self._clock.now())
        return self._last

    async def aclose(self) -> None:
        await self._http.aclose()
