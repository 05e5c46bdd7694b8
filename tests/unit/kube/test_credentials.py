"""Where the API server is and who we are: what is accepted, and what is refused by name."""

from __future__ import annotations

import base64
import ssl
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml

from clusterheal.errors import InvalidInput
from clusterheal.kube import credentials
from clusterheal.kube.credentials import find_credentials, from_kubeconfig, in_cluster
from clusterheal.settings import KubernetesSettings


def write(tmp_path: Path, user: dict[str, Any], cluster: dict[str, Any] | None = None, **more: Any) -> Path:
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "main",
        "contexts": [{"name": "main", "context": {"cluster": "c", "user": "u", "namespace": "shop"}}],
        "clusters": [{"name": "c", "cluster": cluster or {"server": "https://api.example:6443"}}],
        "users": [{"name": "u", "user": user}],
        **more,
    }
    path = tmp_path / "config"
    path.write_text(yaml.safe_dump(config))
    return path


def test_token_server_and_namespace_come_from_the_context(tmp_path: Path) -> None:
    found = from_kubeconfig(write(tmp_path, {"token": "secret"}))
    assert (found.server, found.token, found.namespace) == ("https://api.example:6443", "secret", "shop")
    assert "secret" not in repr(found)


def test_token_file_is_relative_to_the_kubeconfig(tmp_path: Path) -> None:
    found = from_kubeconfig(write(tmp_path, {"tokenFile": "token"}))
    assert found.token_file == tmp_path / "token"


def test_client_certificate_and_ca_may_be_inline_or_files(tmp_path: Path) -> None:
    authority = trustme.CA()
    pair = authority.issue_cert("engine.example")
    (tmp_path / "ca.pem").write_bytes(authority.cert_pem.bytes())
    certificate = base64.b64encode(pair.cert_chain_pems[0].bytes()).decode()
    key = base64.b64encode(pair.private_key_pem.bytes()).decode()
    cluster = {"server": "https://api.example", "certificate-authority": "ca.pem"}
    user = {"client-certificate-data": certificate, "client-key-data": key}
    found = from_kubeconfig(write(tmp_path, user, cluster))
    assert isinstance(found.verify, ssl.SSLContext)
    assert found.verify.verify_mode is ssl.CERT_REQUIRED
    assert len(found.verify.get_ca_certs()) == 1


def test_a_certificate_without_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="must come together"):
        from_kubeconfig(write(tmp_path, {"client-certificate-data": base64.b64encode(b"x").decode()}))


@pytest.mark.parametrize(
    ("user", "named"),
    [
        ({"exec": {"command": "aws-iam-authenticator"}}, "exec credential plugin \\(aws-iam-authenticator\\)"),
        ({"auth-provider": {"name": "oidc"}}, "auth-provider"),
        ({"username": "admin", "password": "x"}, "user name and password"),
    ],
)
def test_unsupported_credentials_are_refused_by_name(tmp_path: Path, user: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidInput, match=named):
        from_kubeconfig(write(tmp_path, user))


def test_a_missing_context_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="'other' is not among contexts: main"):
        from_kubeconfig(write(tmp_path, {}), "other")


@pytest.mark.parametrize("text", ["- a list", "{not yaml", ""])
def test_a_file_that_is_no_kubeconfig_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config"
    path.write_text(text)
    with pytest.raises(InvalidInput, match="kubeconfig"):
        from_kubeconfig(path)


def test_bad_pem_is_refused(tmp_path: Path) -> None:
    cluster = {"server": "https://api.example", "certificate-authority-data": base64.b64encode(b"no pem").decode()}
    with pytest.raises(InvalidInput, match="not valid PEM"):
        from_kubeconfig(write(tmp_path, {}, cluster))


def test_in_cluster_reads_the_mounted_account(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("t")
    (tmp_path / "namespace").write_text("self-healing-platform\n")
    (tmp_path / "ca.crt").write_bytes(trustme.CA().cert_pem.bytes())
    found = in_cluster(tmp_path)
    assert (found.namespace, found.token_file) == ("self-healing-platform", tmp_path / "token")


def test_in_cluster_without_a_token_says_so(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="expected a service account token"):
        in_cluster(tmp_path)


def test_nothing_configured_names_every_place_that_was_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(credentials, "SERVICE_ACCOUNT", tmp_path / "account")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    with pytest.raises(InvalidInput, match=r"kubernetes\.kubeconfig or kubernetes\.server"):
        find_credentials(KubernetesSettings())


def test_a_clusters_ca_without_key_identifiers_is_taken_by_newer_pythons_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = ssl.create_default_context

    def strict(**given: Any) -> ssl.SSLContext:  # the default from Python 3.13 on
        context = made(**given)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    monkeypatch.setattr(ssl, "create_default_context", strict)
    context = from_kubeconfig(write(tmp_path, {"token": "t"})).verify
    assert isinstance(context, ssl.SSLContext)
    assert not context.verify_flags & ssl.VERIFY_X509_STRICT
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
