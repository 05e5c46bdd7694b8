"""The client of the served models. Light: neither kserve nor grpc is imported unless asked for."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import httpx
import numpy as np
import stamina

from clusterheal.contracts import DETECTOR, FORECASTER, Detection, FeatureContract, Forecast, ModelInputs
from clusterheal.contracts.requests import Tensor
from clusterheal.errors import ContractMismatch, InvalidInput, PermanentError, RetryableError
from clusterheal.inference.verdicts import detections, forecasts
from clusterheal.inference.wire import LENGTH_HEADER, Answer, binary_request, json_request, parse_answer
from clusterheal.settings import InferenceSettings

if TYPE_CHECKING:
    from clusterheal.inference.memory import DetectorMemory

log = logging.getLogger(__name__)

_TRANSIENT = frozenset({408, 425, 429, 502, 503, 504})


@dataclass(frozen=True, kw_only=True)
class ModelMetadata:
    """What a server says of a model it serves. The hashes are None for a server that is not ours."""

    name: str
    version: str | None
    contract_sha256: str | None
    package_sha256: str | None
    contract: FeatureContract | None


class InferenceClient:
    """Asks one predictor for verdicts, over V2 REST (binary tensors by default) or gRPC.

    `contract` is what the caller's tensors are built for; it is sent with every request and compared with every
    answer. `None` is for callers that only want metadata, readiness, or the server's own contract.
    `model` is the served model's name where the caller does not call `detect` or `forecast`.
    """

    def __init__(
        self,
        url: str,
        contract: FeatureContract | None = None,
        *,
        settings: InferenceSettings | None = None,
        model: str | None = None,
        grpc_target: str | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.url = str(url).rstrip("/")
        self.contract = contract
        self.model = model
        self._settings = settings or InferenceSettings()
        self._grpc: Any = None
        if self._settings.transport == "grpc":
            if grpc_target is None:
                raise InvalidInput("transport grpc needs the host:port of the predictor's gRPC port")
            from clusterheal.inference.grpc import GrpcTransport

            self._grpc = GrpcTransport(grpc_target, self._settings)
        self._http = httpx.AsyncClient(
            base_url=self.url,
            timeout=self._settings.timeout.total_seconds(),
            verify=_verify(self._settings) if self.url.startswith("https:") else False,  # loading CAs takes 30 ms
            trust_env=False,  # a proxy meant for the internet must not see calls inside the cluster
            transport=transport,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()
        if self._grpc is not None:
            await self._grpc.aclose()

    async def detect(self, inputs: ModelInputs, *, memory: DetectorMemory | None = None) -> list[Detection]:
        """The detector's verdict per row; rows without any sample have none.

        `memory` is for a caller that asks round by round; without it each window is judged by itself.

        Raises:
            ContractMismatch: the served model was trained for other features.
            InvalidInput: the server refused the tensors.
            RetryableError: no answer within the bounded attempts.
            PermanentError: an answer that is no verdict, or no access.
        """
        contract = self._require_contract()
        found: list[Detection] = []
        for part in self._parts(inputs):
            tensors = part.tensors()
            handed_in = None if memory is None else memory.handed_in(part)
            if handed_in is not None:
                tensors["memory"] = handed_in
            try:
                answer = await self.infer(DETECTOR, tensors)
            except InvalidInput:
                if memory is not None:
                    memory.forget()
                raise
            found += detections(answer, part, contract)
            if memory is not None:
                memory.keep(part, handed_in, answer)
        return found

    async def forecast(self, inputs: ModelInputs) -> list[Forecast]:
        """The forecaster's quantile paths per row; raises as `detect` does."""
        contract = self._require_contract()
        made: list[Forecast] = []
        for part in self._parts(inputs):
            made += forecasts(await self.infer(FORECASTER, part.tensors()), part, contract)
        return made

    async def infer(self, model: str, tensors: Mapping[str, Tensor]) -> Answer:
        """One request with the given tensors; raises as `detect` does."""
        sha256 = self._require_contract().sha256
        parameters = {"contract_sha256": sha256}
        answer: Answer | None = None
        async for attempt in self._attempts():
            with attempt:
                if self._grpc is not None:
                    answer = await self._grpc.infer(model, tensors, parameters)
                else:
                    answer = await self._rest_infer(model, tensors, parameters)
        if answer is None:
            raise RetryableError(f"{self.url}: no attempt was made to ask {model}")
        if answer.contract_sha256 != sha256:
            raise ContractMismatch(
                f"{self.url}: {model} answered for contract {answer.contract_sha256}, the request was for {sha256}; "
                "point to a server that serves this project's packages"
            )
        return answer

    async def metadata(self, model: str | None = None) -> ModelMetadata:
        """What the server says of a model.

        Raises:
            PermanentError: there is no such model, or the answer is no metadata.
            RetryableError: no answer within the bounded attempts.
        """
        name = model or await self._only_model()
        body = await self._get_json(f"/v2/models/{name}")
        parameters = body.get("parameters") or {}
        contract = parameters.get("contract")
        versions = body.get("versions") or [None]
        return ModelMetadata(
            name=name,
            version=parameters.get("version") or versions[0],
            contract_sha256=parameters.get("contract_sha256"),
            package_sha256=parameters.get("package_sha256"),
            contract=FeatureContract.from_dict(contract) if isinstance(contract, dict) else None,
        )

    async def ready(self, model: str | None = None) -> bool:
        """Whether the model itself (not only its server) is ready; one attempt, never raises for an absent server."""
        try:
            name = model or await self._only_model()
            response = await self._send("GET", f"/v2/models/{name}/ready")
        except (RetryableError, PermanentError) as exc:
            log.debug("model is not ready", extra={"url": self.url, "reason": str(exc)})
            return False
        return bool(_json_object(response).get("ready"))

    async def _rest_infer(self, model: str, tensors: Mapping[str, Tensor], parameters: Mapping[str, Any]) -> Answer:
        encode = json_request if self._settings.transport == "json" else binary_request
        body, headers = encode(tensors, parameters)
        response = await self._send("POST", f"/v2/models/{model}/infer", content=body, headers=headers)
        return parse_answer(response.content, response.headers.get(LENGTH_HEADER))

    async def _get_json(self, path: str) -> dict[str, Any]:
        response: httpx.Response | None = None
        async for attempt in self._attempts():
            with attempt:
                response = await self._send("GET", path)
        if response is None:
            raise RetryableError(f"{self.url}{path}: no attempt was made")
        return _json_object(response)

    def _attempts(self) -> Any:
        settings = self._settings
        return stamina.retry_context(
            on=RetryableError,
            attempts=settings.attempts,
            timeout=settings.timeout.total_seconds() * settings.attempts,
            wait_initial=0.1,
            wait_max=2.0,
        )

    async def _send(self, method: str, path: str, **kwargs: Any) -> httpx.Response:
        headers = {**kwargs.pop("headers", {}), **self._authorization()}
        try:
            response = await self._http.request(method, path, headers=headers, **kwargs)
        except httpx.TransportError as exc:
            if _certificate_problem(exc):
                raise PermanentError(f"{self.url}: certificate not accepted: {exc}; set inference.ca_file") from exc
            raise RetryableError(f"{self.url}{path}: no answer: {exc or type(exc).__name__}") from exc
        if response.is_success:
            return response
        raise _refusal(response)

    def _authorization(self) -> dict[str, str]:
        path = self._settings.token_file
        if path is None:
            return {}
        try:
            return {"Authorization": f"Bearer {path.read_text().strip()}"}
        except OSError as exc:
            raise InvalidInput(f"inference.token_file {path} cannot be read: {exc.strerror}") from exc

    async def _only_model(self) -> str:
        if self.model is not None:
            return self.model
        models = (await self._get_json("/v2/models")).get("models")
        if not isinstance(models, list) or len(models) != 1:
            raise PermanentError(f"{self.url} serves {models}; name the model that is meant")
        return str(models[0])

    def _require_contract(self) -> FeatureContract:
        if self.contract is None:
            raise InvalidInput("this client was made without a contract; it can ask for metadata and readiness only")
        return self.contract

    def _parts(self, inputs: ModelInputs) -> list[ModelInputs]:
        """The request in pieces that keep memory on both sides small."""
        rows = self._settings.chunk_rows
        return [
            ModelInputs(
                recent=np.ascontiguousarray(inputs.recent[i : i + rows]),
                seasonal=np.ascontiguousarray(inputs.seasonal[i : i + rows]),
                timestamp=inputs.timestamp[i : i + rows],
                entity=inputs.entity[i : i + rows],
            )
            for i in range(0, len(inputs.entity), rows)
        ]


def _verify(settings: InferenceSettings) -> ssl.SSLContext:
    if settings.ca_file is None:
        return ssl.create_default_context()
    try:
        return ssl.create_default_context(cafile=str(settings.ca_file))
    except (OSError, ssl.SSLError) as exc:
        raise InvalidInput(f"inference.ca_file {settings.ca_file} is not a CA bundle: {exc}") from exc


def _certificate_problem(exc: BaseException) -> bool:
    seen: BaseException | None = exc
    while seen is not None:
        if isinstance(seen, ssl.SSLCertVerificationError) or "CERTIFICATE_VERIFY_FAILED" in str(seen):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def _refusal(response: httpx.Response) -> Exception:
    """The error of ours that a status other than 2xx means."""
    text = _error_text(response)
    where = f"{response.request.method} {response.request.url}: {response.status_code}"
    if response.status_code in _TRANSIENT:
        return RetryableError(f"{where}: {text}")
    if response.status_code in (401, 403):
        return PermanentError(f"{where}: {text}; set inference.token_file to a token that may get the InferenceService")
    if text.startswith("feature contract mismatch"):
        return ContractMismatch(f"{where}: {text}")
    if response.status_code in (400, 413, 422):
        return InvalidInput(f"{where}: {text}")
    return PermanentError(f"{where}: {text}")


def _error_text(response: httpx.Response) -> str:
    try:
        body = response.json()
    except ValueError:
        return response.text[:200]
    return str(body.get("error") or body.get("detail") or body)[:500] if isinstance(body, dict) else str(body)[:200]


def _json_object(response: httpx.Response) -> dict[str, Any]:
    try:
        body = response.json()
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise PermanentError(f"{response.request.url}: expected a JSON object, got {response.text[:80]!r}")
    return body
