"""One settings object: defaults < TOML file < environment (`CLUSTERHEAL_<SECTION>__<FIELD>`) < flags.

It is read once, in a command's main function, and passed on. Libraries never read the environment.
"""

from __future__ import annotations

import tomllib
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

from pydantic import AnyHttpUrl, BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from clusterheal.errors import InvalidInput


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PrometheusSettings(Section):
    url: AnyHttpUrl = Field(AnyHttpUrl("http://127.0.0.1:9090"), description="Prometheus or Thanos Querier, root URL")
    token_file: Path | None = Field(None, description="bearer token, read again before each request since it rotates")
    ca_file: Path | None = Field(None, description="CA bundle; on OpenShift the service-ca ConfigMap")
    namespace: str | None = Field(None, description="tenancy parameter for Thanos Querier's port 9092")
    timeout: timedelta = Field(
        timedelta(seconds=60), description="per request; a 30-day window takes seconds, not minutes"
    )
    concurrency: int = Field(4, ge=1, le=32, description="requests in flight; more starves other users of the server")
    max_points: int = Field(
        10_000, ge=2, le=11_000, description="points per series per request; Prometheus refuses more than 11,000"
    )
    attempts: int = Field(5, ge=1, le=20, description="tries per request on 429, 5xx, resets and cut answers")
    retry_after_max: timedelta = Field(
        timedelta(seconds=60), description="longest Retry-After that is waited for; a longer one is an error"
    )
    compress: bool = Field(
        False, description="ask for gzip; costs the server more CPU than a cluster network takes time"
    )


class DatasetSettings(Section):
    path: str = Field("out/dataset", description="local folder or s3:// URL of the Parquet dataset")
    catalogue: Path | None = Field(None, description="query catalogue YAML; default: the packaged one")
    step: timedelta = Field(timedelta(seconds=60), description="grid step of the collected series")
    days: float = Field(7.0, gt=0, description="how far back to collect")
    s3_endpoint: str | None = Field(None, description="S3 endpoint URL when it is not AWS")
    s3_ca_file: Path | None = Field(None, description="CA bundle of the S3 endpoint")
    min_coverage: float = Field(
        0.5, ge=0, le=1, description="share of samples present while entities live; less stops the pipeline"
    )
    max_out_of_range: float = Field(
        0.1, ge=0, le=1, description="share of one feature's samples outside its plausible range; more stops it"
    )
    max_clock_skew: timedelta = Field(
        timedelta(seconds=60), description="difference from the server's clock; more puts samples on wrong steps"
    )
    html_report: bool = Field(False, description="write quality.html with plots beside each run's JSON report")


class TrainingSettings(Section):
    seed: int = Field(7, description="same seed, data and machine: same model bytes")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto takes CUDA when there is one")
    max_seconds: float | None = Field(
        None, gt=0, description="stop training after this long; None: until early stopping"
    )
    train_share: float = Field(0.7, gt=0, lt=1, description="share of the time to train on; the oldest part")
    calibration_share: float = Field(0.15, gt=0, lt=1, description="share to calibrate on; the rest judges the models")
    processes: int = Field(1, ge=1, le=64, description="processes on this machine that train the forecaster together")
    checkpoint: Path | None = Field(
        None, description="folder for checkpoints: a killed training goes on from there; None: none"
    )
    notify_url: AnyHttpUrl | None = Field(None, description="where pipelines POST how they ended; None: nowhere")


class TrainJobSettings(Section):
    runtime: str = Field(
        "torch-distributed", description="ClusterTrainingRuntime or TrainingRuntime of Kubeflow Trainer"
    )
    image: str | None = Field(None, description="pipeline image of the job's pods, by digest")
    claim: str | None = Field(None, description="RWX claim with dataset and packages, mounted here and in the pods")
    mount: Path = Field(Path("/mnt/training"), description="where the claim is mounted, here and in the job's pods")
    nodes: int = Field(1, ge=1, le=64, description="pods that train together")
    cpu: str = Field("4", description="CPU of each pod, request and limit")
    memory: str = Field("16Gi", description="memory of each pod, request and limit")
    accelerator: str = Field("nvidia.com/gpu", description="resource name of the GPUs")
    accelerators: int = Field(0, ge=0, le=16, description="GPUs of each pod, one process each; 0: CPU")
    timeout: timedelta = Field(timedelta(hours=6), description="a job that takes longer is ended")


class PipelineSettings(Section):
    url: AnyHttpUrl | None = Field(None, description="Data Science Pipelines API: its route or https://ds-pipeline-...")
    token_file: Path | None = Field(None, description="bearer token, read again before each request since it rotates")
    ca_file: Path | None = Field(None, description="CA bundle; inside the cluster the service-ca ConfigMap")
    timeout: timedelta = Field(timedelta(seconds=30), description="per request; an upload takes seconds")
    attempts: int = Field(4, ge=1, le=20, description="tries of a request that may be repeated, with growing pauses")
    service_account: str | None = Field(None, description="account of the runs; None: pipeline-runner-dspa")
    image: str | None = Field(None, description="image of all components by digest, where no flag names one")
    namespace: str | None = Field(
        None, description="profile on a server of many users; None: a server of one namespace, as OpenShift AI's"
    )
    experiment: str | None = Field(
        None, description="runs are grouped under it, it is made when missing; None: the server's default"
    )
    step_attempts: int = Field(
        3, ge=1, le=10, description="tries of a step in its pod while a server is away; other errors end it at once"
    )
    step_pause: timedelta = Field(
        timedelta(seconds=30), ge=timedelta(0), description="before the second try of a step, doubled each time"
    )


class BuildSettings(Section):
    git_commit: str | None = Field(None, description="commit of this code, set by the image; recorded on versions")
    image: str | None = Field(None, description="image that a pipeline's step runs in, with digest; set on compiling")


class RegistrySettings(Section):
    url: AnyHttpUrl = Field(AnyHttpUrl("http://127.0.0.1:8085"), description="model registry, REST root URL")
    token_file: Path | None = Field(None, description="bearer token file")
    ca_file: Path | None = Field(None, description="CA bundle of the registry's route")
    author: str = Field("clusterheal", description="recorded on new versions")
    storage: str = Field("out/models", description="root under which packages are stored, local folder or s3:// URL")
    storage_endpoint: str | None = Field(None, description="S3 endpoint URL of the storage when it is not AWS")
    storage_ca_file: Path | None = Field(None, description="CA bundle of the storage's S3 endpoint")
    timeout: timedelta = Field(timedelta(seconds=20), description="per request; the registry answers in milliseconds")
    attempts: int = Field(5, ge=1, le=20, description="tries per request on timeouts and 5xx, with growing pauses")


class ServingSettings(Section):
    host: str = Field("127.0.0.1", description="address to listen on; 0.0.0.0 in a container")
    http_port: int = Field(8080, ge=0, le=65535, description="V2 REST; 0 picks a free port")
    grpc_port: int = Field(8081, ge=0, le=65535, description="V2 gRPC; 0 picks a free port")
    threads: int = Field(1, ge=1, le=64, description="CPU threads per request; more replicas serve better than more")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto takes CUDA when onnxruntime has it")
    max_request_bytes: int = Field(
        64 * 1024 * 1024, ge=1024, description="larger requests are refused; 2,700 rows of 20 features fit"
    )


class InferenceSettings(Section):
    transport: Literal["binary", "json", "grpc"] = Field(
        "binary", description="V2 REST with binary tensors, V2 REST in plain JSON, or V2 gRPC (needs grpcio)"
    )
    timeout: timedelta = Field(timedelta(seconds=10), description="per attempt")
    attempts: int = Field(3, ge=1, le=10, description="bound on tries of one request")
    chunk_rows: int = Field(256, ge=1, le=4096, description="entities per request; bounds memory on both sides")
    token_file: Path | None = Field(None, description="bearer token for predictors behind an auth proxy")
    ca_file: Path | None = Field(None, description="CA bundle; on OpenShift the service-ca ConfigMap")


class KubernetesSettings(Section):
    server: AnyHttpUrl | None = Field(None, description="API server root URL; overrides kubeconfig, e.g. an emulator's")
    token_file: Path | None = Field(None, description="bearer token for `server`, read again when it changes")
    ca_file: Path | None = Field(None, description="CA bundle of `server`")
    kubeconfig: Path | None = Field(None, description="default: in-cluster credentials, then ~/.kube/config")
    context: str | None = Field(None, description="context of the kubeconfig; default: its current one")
    namespace: str = Field("self-healing-platform", description="where incidents, policies and leases live")
    timeout: timedelta = Field(timedelta(seconds=15), description="per API request except watches")


class RolloutSettings(Section):
    strategy: Literal["auto", "shadow", "canary", "direct"] = Field(
        "auto",
        description="auto: shadow, then canary steps where KServe has them; direct: switch after golden requests",
    )
    ready_timeout: timedelta = Field(
        timedelta(minutes=10), description="for the new revision to answer its golden requests"
    )
    poll: timedelta = Field(timedelta(seconds=1), description="between two looks at an InferenceService")
    lease: timedelta = Field(
        timedelta(seconds=60), description="a rollout that was killed can be taken over after this long"
    )
    handover: timedelta = Field(
        timedelta(minutes=10), description="for the next step of the same pipeline run to start and go on"
    )
    golden_tolerance: float = Field(
        1e-3, gt=0, description="relative difference allowed between served and packaged outputs"
    )
    bake: timedelta = Field(
        timedelta(minutes=5), description="how long a promoted version is watched before the previous one is let go"
    )
    keep_previous: bool = Field(
        True, description="run the version before beside the new one while that is watched, to compare their answers"
    )
    canary_steps: tuple[int, ...] = Field((10, 50), description="percent of the Route's traffic, one bake each")
    max_error_rate: float = Field(0.01, ge=0, le=1, description="share of failed requests that breaks a rollout off")
    max_latency_ratio: float = Field(
        3.0, gt=1, description="p99 of the candidate over the incumbent's (50 ms at least) that breaks it off"
    )
    max_alarm_ratio: float = Field(
        3.0, gt=1, description="alarm rate of the candidate over the incumbent's (2 % at least) that breaks it off"
    )
    min_agreement: float = Field(
        0.8, ge=0, le=1, description="share of verdicts that must agree with the incumbent's on the same windows"
    )


class EngineSettings(Section):
    mode: Literal["observe", "suggest", "approve", "auto"] = Field(
        "observe", description="ceiling on what the engine may do"
    )
    host: str = Field("127.0.0.1", description="address to listen on; 0.0.0.0 in a container")
    port: int = Field(8090, ge=0, le=65535, description="REST API, webhook and metrics; 0 picks a free port")
    interval: timedelta = Field(
        timedelta(seconds=30), gt=timedelta(0), description="between two rounds of live scoring and reconciling"
    )
    detector_url: AnyHttpUrl | None = Field(
        None, description="root URL of the anomaly-detector predictor; None: rules only"
    )
    forecaster_url: AnyHttpUrl | None = Field(None, description="root URL of the predictive-analytics predictor")
    alert_token_file: Path | None = Field(None, description="shared token that Alertmanager sends")
    poll_alerts: bool = Field(
        True,
        description="read firing alerts and GPU errors from Prometheus, which also brings the platform's own alerts",
    )
    alertmanager_url: AnyHttpUrl | None = Field(
        None, description="Alertmanager to ask for silences, with Prometheus' credentials; None: silences are not known"
    )
    confidence_floor: float = Field(0.8, ge=0, le=1, description="AI below this never acts")
    ai_needs_outcomes: bool = Field(True, description="AI acts by itself only where its verified outcomes bear it out")
    allow_anonymous: bool = Field(False, description="development only: API without tokens, on loopback alone")
    tls_cert_file: Path | None = Field(None, description="certificate to serve TLS with; None: plain HTTP")
    tls_key_file: Path | None = Field(None, description="its key")
    follow: timedelta | None = Field(
        None,
        description="score windows that end at most this long ago, although the contract's step is longer; "
        "must divide the step, and asks Prometheus for whole windows again each time",
    )
    alarm_rounds: int = Field(1, ge=1, description="rounds in a row that the detector must alarm")
    quiet: timedelta | None = Field(
        None, description="how long trouble must be gone to count as gone; None: 4 intervals, 5 s to 2 min"
    )
    verify_after: timedelta = Field(timedelta(minutes=2), description="earliest judgement of an action's effect")
    verify_timeout: timedelta = Field(timedelta(minutes=15), description="latest judgement of an action's effect")
    plan_timeout: timedelta = Field(timedelta(hours=1), description="a plan that may not run ends after this")
    approval_timeout: timedelta = Field(timedelta(hours=4), description="how long a plan waits, and an approval holds")
    triage_timeout: timedelta = Field(timedelta(minutes=10), description="what nobody can explain by then is escalated")
    fresh: timedelta = Field(timedelta(minutes=10), description="older signals, scores and views are not acted on")
    linger: timedelta = Field(
        timedelta(minutes=30), description="how long a repeat of a signal that was dealt with opens nothing new"
    )
    retention: timedelta = Field(timedelta(days=30), description="ended incidents are removed after this")


class LogSettings(Section):
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    format: Literal["json", "text"] = Field("text", description="json in containers, text for people")


class Settings(BaseSettings):
    """Everything that can be configured."""

    model_config = SettingsConfigDict(
        env_prefix="CLUSTERHEAL_",
        env_nested_delimiter="__",
        env_ignore_empty=True,  # a ConfigMap must have every key that a pod names, also those without a value
        extra="forbid",
        frozen=True,
    )

    prometheus: PrometheusSettings = PrometheusSettings()
    dataset: DatasetSettings = DatasetSettings()
    training: TrainingSettings = TrainingSettings()
    train_job: TrainJobSettings = TrainJobSettings()
    pipelines: PipelineSettings = PipelineSettings()
    build: BuildSettings = BuildSettings()
    registry: RegistrySettings = RegistrySettings()
    serving: ServingSettings = ServingSettings()
    inference: InferenceSettings = InferenceSettings()
    kubernetes: KubernetesSettings = KubernetesSettings()
    rollout: RolloutSettings = RolloutSettings()
    engine: EngineSettings = EngineSettings()
    log: LogSettings = LogSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)


def load_settings(config_file: Path | None = None, overrides: dict[str, dict[str, Any]] | None = None) -> Settings:
    """Read the settings; `overrides` are the flags, by section, with `None` for flags that were not given.

    Raises:
        InvalidInput: an unreadable file or a value that does not validate, naming the field.
    """
    given = {
        section: {name: value for name, value in values.items() if value is not None}
        for section, values in (overrides or {}).items()
    }
    if config_file is not None and not config_file.is_file():
        raise InvalidInput(f"settings file {config_file} does not exist")

    class FromFile(Settings):
        model_config = SettingsConfigDict(toml_file=config_file)

    try:
        return FromFile(**{section: values for section, values in given.items() if values})  # type: ignore[arg-type]
    except ValidationError as exc:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}, got {e['input']!r}" for e in exc.errors())
        raise InvalidInput(f"settings are invalid: {problems}") from exc
    except tomllib.TOMLDecodeError as exc:
        raise InvalidInput(f"settings file {config_file} is not TOML: {exc}") from exc


__all__ = ["Settings", "load_settings"]
