"""The engine's connection to Prometheus and to the two predictors, made and checked again as they come and go."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

from clusterheal.clock import Clock
from clusterheal.contracts import DETECTOR, FORECASTER, FeatureContract
from clusterheal.engine.signals.live import LiveScorer
from clusterheal.engine.signals.models import ModelVerdicts
from clusterheal.errors import ClusterhealError, ContractMismatch, PermanentError
from clusterheal.inference.client import InferenceClient
from clusterheal.inference.memory import RememberingDetector
from clusterheal.metrics.client import PrometheusClient
from clusterheal.metrics.live import LiveWindow
from clusterheal.settings import InferenceSettings

log = logging.getLogger(__name__)

CHECK_EVERY = timedelta(seconds=30)


class ServedModels:
    """A scorer over served models. The contract is the one that the models were trained with, as their metadata says.

    Both models must name the same contract. When it changes (a rollout), the window is built anew.
    """

    def __init__(
        self,
        prometheus: PrometheusClient,
        clock: Clock,
        *,
        detector_url: str | None,
        forecaster_url: str | None,
        settings: InferenceSettings | None = None,
        follow: timedelta | None = None,
    ) -> None:
        self._prometheus = prometheus
        self._clock = clock
        self._settings = settings
        self._follow = follow
        self._urls = {name: url for name, url in ((DETECTOR, detector_url), (FORECASTER, forecaster_url)) if url}
        self._clients: dict[str, InferenceClient] = {}
        self._live: LiveScorer | None = None
        self._checked_at: float | None = None

    @property
    def contract(self) -> FeatureContract:
        if self._live is None:
            raise PermanentError("the models have not been reached yet")
        return self._live.contract

    async def score(self, end: datetime) -> ModelVerdicts:
        """As `LiveScorer.score`; while the models cannot be reached or disagree, that is the problem told."""
        try:
            live = await self._connected()
        except ClusterhealError as exc:
            self._checked_at = None
            return ModelVerdicts(scored_at=end, problem=str(exc), mismatch=isinstance(exc, ContractMismatch))
        verdicts = await live.score(end)
        if verdicts.problem is not None:
            self._checked_at = None  # perhaps a rollout changed the contract: ask again
        return verdicts

    async def _connected(self) -> LiveScorer:
        now = self._clock.monotonic()
        checked = self._checked_at is not None and now - self._checked_at < CHECK_EVERY.total_seconds()
        if self._live is not None and checked:
            return self._live
        contract = await self._served_contract()
        if self._live is None or self._live.contract.sha256 != contract.sha256:
            await self.aclose()
            self._clients = {n: InferenceClient(u, contract, settings=self._settings) for n, u in self._urls.items()}
            window = LiveWindow(self._prometheus, contract, follow=self._follow)
            detector = self._clients.get(DETECTOR)
            remembering = None if detector is None else RememberingDetector(detector, contract)
            self._live = LiveScorer(window, remembering, self._clients.get(FORECASTER))
            log.info("models connected", extra={"contract": contract.sha256[:12], "models": sorted(self._urls)})
        self._checked_at = now
        return self._live

    async def _served_contract(self) -> FeatureContract:
        """The contract in every model's metadata.

        Raises:
            ContractMismatch: two models name different ones. PermanentError: a model names none.
        """
        found: dict[str, FeatureContract] = {}
        for name, url in self._urls.items():
            async with InferenceClient(url, settings=self._settings) as client:
                metadata = await client.metadata(name)
            if metadata.contract is None or metadata.contract.sha256 != metadata.contract_sha256:
                raise PermanentError(f"{url}: model {name} does not tell the feature contract it was trained with")
            found[name] = metadata.contract
        hashes = {c.sha256[:12] for c in found.values()}
        if len(hashes) > 1:
            raise ContractMismatch(f"the served models were trained for different contracts: {sorted(hashes)}")
        return next(iter(found.values()))

    async def aclose(self) -> None:
        """Close the connections to the models; Prometheus' is its owner's."""
        for client in self._clients.values():
            await client.aclose()
        self._clients = {}
