"""The engine as a process: settings in, HTTP server and loop out."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import random
import signal
import socket
from contextlib import AsyncExitStack
from datetime import timedelta

from fastapi import FastAPI

from clusterheal.clock import Clock, SystemClock
from clusterheal.engine.api import build_api
from clusterheal.engine.auth import Authenticator, SharedToken
from clusterheal.engine.engine import Engine, Parts
from clusterheal.engine.scoring import ServedModels
from clusterheal.engine.service import Service
from clusterheal.engine.silence_reader import SilenceReader
from clusterheal.engine.world import Config
from clusterheal.errors import InvalidInput
from clusterheal.kube.http import HttpCluster
from clusterheal.kube.ports import Cluster
from clusterheal.metrics.client import PrometheusClient
from clusterheal.settings import EngineSettings, Settings

log = logging.getLogger(__name__)

LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
POLL_TIMEOUT = timedelta(seconds=10)  # a round must not wait longer for alerts; the next one asks again
SHORTEST_QUIET, LONGEST_QUIET = timedelta(seconds=5), timedelta(minutes=2)


def config_of(settings: EngineSettings) -> Config:
    """The engine's limits. Without a setting, `quiet` is four rounds, between 5 s and 2 minutes."""
    derived = min(max(4 * settings.interval, SHORTEST_QUIET), LONGEST_QUIET)
    return Config(
        mode=settings.mode,
        confidence_floor=settings.confidence_floor,
        ai_needs_outcomes=settings.ai_needs_outcomes,
        quiet=settings.quiet or derived,
        verify_after=settings.verify_after,
        verify_timeout=settings.verify_timeout,
        plan_timeout=settings.plan_timeout,
        approval_timeout=settings.approval_timeout,
        triage_timeout=settings.triage_timeout,
        fresh=settings.fresh,
        linger=settings.linger,
        pod=socket.gethostname(),  # in a pod, its name
    )


def identity() -> str:
    """Pod name and a random tail: a restarted pod of the same name is another candidate."""
    return f"{socket.gethostname()}-{os.getpid()}-{random.SystemRandom().getrandbits(24):06x}"


def build_engine(
    settings: Settings,
    cluster: Cluster,
    clock: Clock,
    models: ServedModels | None,
    *,
    prometheus: PrometheusClient | None = None,
    silences: SilenceReader | None = None,
) -> Engine:
    """An engine over a real cluster."""
    own = settings.engine
    return Engine(
        Parts(
            cluster=cluster,
            clock=clock,
            rng=random.Random(),
            namespace=settings.kubernetes.namespace,
            identity=identity(),
            config=config_of(own),
            interval=own.interval,
            retention=own.retention,
            scorer=models,
            alarm_rounds=own.alarm_rounds,
            prometheus=prometheus,
            silences=silences,
        )
    )


def build_app(settings: Settings, engine: Engine) -> FastAPI:
    """The API over an engine.

    Raises:
        InvalidInput: anonymous access on an address that others can reach.
    """
    own, parts = settings.engine, engine.parts
    if own.allow_anonymous and own.host not in LOOPBACK:
        raise InvalidInput(
            f"engine.allow_anonymous needs a loopback address, engine.host is {own.host}; "
            "use service account tokens instead"
        )
    authenticator = Authenticator(parts.cluster, parts.clock, namespace=parts.namespace, anonymous=own.allow_anonymous)
    return build_api(Service(engine), authenticator, SharedToken(own.alert_token_file, anonymous=own.allow_anonymous))


async def serve(settings: Settings) -> None:
    """Run until a signal ends it.

    Raises:
        InvalidInput: settings that do not go together, or a port that is taken.
    """
    own = settings.engine
    listener = _listen(own.host, own.port)
    async with AsyncExitStack() as stack:
        stack.callback(listener.close)
        clock = SystemClock()
        cluster = await stack.enter_async_context(HttpCluster.from_settings(settings.kubernetes))
        models: ServedModels | None = None
        if own.detector_url is not None or own.forecaster_url is not None:
            prometheus = await stack.enter_async_context(PrometheusClient(settings.prometheus, clock=clock))
            models = ServedModels(
                prometheus,
                clock,
                detector_url=_text(own.detector_url),
                forecaster_url=_text(own.forecaster_url),
                settings=settings.inference,
                follow=own.follow,
            )
            stack.push_async_callback(models.aclose)
        polled: PrometheusClient | None = None
        if own.poll_alerts:
            once = settings.prometheus.model_copy(update={"attempts": 1, "timeout": POLL_TIMEOUT})
            polled = await stack.enter_async_context(PrometheusClient(once, clock=clock))
        silences: SilenceReader | None = None
        if own.alertmanager_url is not None:
            silences = SilenceReader(str(own.alertmanager_url), settings.prometheus, clock)
            stack.push_async_callback(silences.aclose)
        engine = build_engine(settings, cluster, clock, models, prometheus=polled, silences=silences)
        app = build_app(settings, engine)
        # What is loaded by now stays: left out of collections, they do not halt a storm's webhooks for 0.1 s and more.
        gc.collect()
        gc.freeze()
        log.info("engine starts", extra={"url": f"{own.host}:{listener.getsockname()[1]}", "mode": own.mode})
        await _run(app, engine, own, listener)


def _text(url: object | None) -> str | None:
    return None if url is None else str(url)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Without the explicit protocol asyncio leaves Nagle's algorithm on: 40 ms per answer.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as exc:
        listener.close()
        raise InvalidInput(f"cannot listen on {host}:{port}: {exc.strerror}; choose another with --port") from exc
    return listener


async def _run(app: FastAPI, engine: Engine, settings: EngineSettings, listener: socket.socket) -> None:
    """Server and loop together; when either ends, so does the other."""
    import uvicorn

    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=5,
        ssl_certfile=settings.tls_cert_file,
        ssl_keyfile=settings.tls_key_file,
    )
    server = uvicorn.Server(config)
    for number in (signal.SIGINT, signal.SIGTERM):
        # The server raises a signal again once it has ended; unheard, that would end the process before the lease is
        # given up.
        asyncio.get_running_loop().add_signal_handler(number, lambda: None)
    loop = asyncio.create_task(engine.run())
    web = asyncio.create_task(server.serve(sockets=[listener]))
    done, pending = await asyncio.wait({loop, web}, return_when=asyncio.FIRST_COMPLETED)
    server.should_exit = True
    loop.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
    for task in done:
        task.result()
