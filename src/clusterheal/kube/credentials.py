"""Where the API server is and how to prove who we are: kubeconfig, in-cluster files, or a plain URL."""

from __future__ import annotations

import base64
import binascii
import ssl
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from clusterheal.errors import InvalidInput
from clusterheal.settings import KubernetesSettings

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
IN_CLUSTER_SERVER = "https://kubernetes.default.svc"
_REFUSED_USER_FIELDS = {
    "exec": "an exec credential plugin",
    "auth-provider": "an auth-provider plugin",
    "username": "a user name and password, which API servers stopped accepting in 1.19",
}


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """One API server and one identity.

    `token_file` is read again whenever it changes. `headers` impersonate. `namespace` is the context's default.
    """

    server: str
    verify: ssl.SSLContext | bool = True
    token: str | None = field(default=None, repr=False)
    token_file: Path | None = None
    server_name: str | None = None
    proxy: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    namespace: str = "default"


def find_credentials(settings: KubernetesSettings) -> Credentials:
    """By the settings: `server`, else `kubeconfig`, else the pod's service account, else ~/.kube/config.

    Raises:
        InvalidInput: nothing is configured, or what is configured cannot be used.
    """
    if settings.server is not None:
        return Credentials(
            server=str(settings.server).rstrip("/"),
            verify=_context(settings.ca_file.read_bytes() if settings.ca_file else None),
            token_file=settings.token_file,
        )
    if settings.kubeconfig is not None:
        return from_kubeconfig(settings.kubeconfig, settings.context)
    if (SERVICE_ACCOUNT / "token").is_file():
        return in_cluster()
    default = Path.home() / ".kube" / "config"
    if default.is_file():
        return from_kubeconfig(default, settings.context)
    raise InvalidInput(
        "no Kubernetes API server is configured: give kubernetes.kubeconfig or kubernetes.server "
        f"(looked for a service account in {SERVICE_ACCOUNT} and for {default})"
    )


def in_cluster(directory: Path = SERVICE_ACCOUNT, server: str = IN_CLUSTER_SERVER) -> Credentials:
    """The pod's own service account.

    Raises:
        InvalidInput: no token is mounted there.
    """
    token_file, ca_file, namespace = (directory / name for name in ("token", "ca.crt", "namespace"))
    if not token_file.is_file():
        raise InvalidInput(f"expected a service account token at {token_file}; is automountServiceAccountToken off?")
    return Credentials(
        server=server,
        verify=_context(ca_file.read_bytes() if ca_file.is_file() else None),
        token_file=token_file,
        namespace=namespace.read_text().strip() if namespace.is_file() else "default",
    )


def from_kubeconfig(path: Path, context: str | None = None) -> Credentials:
    """A context of a kubeconfig file (`None`: its current one). Relative paths in it are relative to it.

    Raises:
        InvalidInput: an unreadable file, a missing name, or a credential kind that is not supported, by name.
    """
    try:
        config = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as exc:
        raise InvalidInput(f"kubeconfig {path} cannot be read: {exc}") from exc
    if not isinstance(config, dict):
        raise InvalidInput(f"kubeconfig {path}: expected a mapping, got {type(config).__name__}")
    name = context or config.get("current-context")
    if not name:
        raise InvalidInput(f"kubeconfig {path} has no current-context; name one with kubernetes.context")
    chosen = _named(config, path, "contexts", "context", name)
    cluster = _named(config, path, "clusters", "cluster", chosen.get("cluster", ""))
    user = _named(config, path, "users", "user", chosen["user"]) if chosen.get("user") else {}
    for key, what in _REFUSED_USER_FIELDS.items():
        if user.get(key):
            command = f" ({user[key].get('command')})" if key == "exec" else ""
            raise InvalidInput(
                f"kubeconfig {path}, user {chosen['user']!r} uses {what}{command}: not supported. "
                "Use a service account token (kubectl create token) or a client certificate"
            )
    return _assemble(path, chosen, cluster, user)


def _assemble(path: Path, context: dict[str, Any], cluster: dict[str, Any], user: dict[str, Any]) -> Credentials:
    server = str(cluster.get("server", "")).rstrip("/")
    if not server.startswith(("http://", "https://")):
        raise InvalidInput(f"kubeconfig {path}: expected an http(s) server, got {server!r}")
    certificate = _data(path, user, "client-certificate")
    key = _data(path, user, "client-key")
    if (certificate is None) != (key is None):
        raise InvalidInput(f"kubeconfig {path}: client-certificate and client-key must come together")
    verify = _context(
        _data(path, cluster, "certificate-authority"),
        (certificate, key) if certificate is not None and key is not None else None,
        insecure=bool(cluster.get("insecure-skip-tls-verify")),
    )
    headers = [("Impersonate-User", str(user["as"]))] if user.get("as") else []
    headers += [("Impersonate-Group", str(group)) for group in user.get("as-groups") or ()]
    return Credentials(
        server=server,
        verify=verify,
        token=user.get("token"),
        token_file=(path.parent / user["tokenFile"]) if user.get("tokenFile") else None,
        server_name=cluster.get("tls-server-name"),
        proxy=cluster.get("proxy-url"),
        headers=tuple(headers),
        namespace=context.get("namespace") or "default",
    )


def _named(config: dict[str, Any], path: Path, section: str, item: str, name: str) -> dict[str, Any]:
    for entry in config.get(section) or ():
        if entry.get("name") == name:
            return entry.get(item) or {}
    known = ", ".join(sorted(str(e.get("name")) for e in config.get(section) or ())) or "none"
    raise InvalidInput(f"kubeconfig {path}: {item} {name!r} is not among {section}: {known}")


def _data(path: Path, section: dict[str, Any], name: str) -> bytes | None:
    """`<name>-data` (base64) or the file `<name>`."""
    if inline := section.get(f"{name}-data"):
        try:
            return base64.b64decode(inline, validate=True)
        except binascii.Error as exc:
            raise InvalidInput(f"kubeconfig {path}: {name}-data is not base64: {exc}") from exc
    if section.get(name):
        file = path.parent / section[name]
        try:
            content: bytes = file.read_bytes()
        except OSError as exc:
            raise InvalidInput(f"kubeconfig {path}: {name} cannot be read: {exc}") from exc
        return content
    return None


def _context(ca: bytes | None, pair: tuple[bytes, bytes] | None = None, *, insecure: bool = False) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cadata=ca.decode() if ca else None)
        # From Python 3.13 on the default refuses certificates without a key identifier, which clusters do issue and
        # every other client takes. The chain and the name are checked as before.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        if insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if pair is not None:
            _load_pair(context, pair)
    except (ssl.SSLError, ValueError) as exc:
        raise InvalidInput(f"a certificate or key of the Kubernetes credentials is not valid PEM: {exc}") from exc
    return context


def _load_pair(context: ssl.SSLContext, pair: tuple[bytes, bytes]) -> None:
    """`ssl` reads certificates from files only; the file is gone again right after."""
    with tempfile.NamedTemporaryFile(prefix="clusterheal-", suffix=".pem") as file:
        file.write(pair[0] + b"\n" + pair[1])
        file.flush()
        context.load_cert_chain(file.name)
