"""TokenReview and SubjectAccessReview."""

from __future__ import annotations

from clusterheal.kube.ports import Cluster, Manifest
from clusterheal.kube.resources import SUBJECT_ACCESS_REVIEWS, TOKEN_REVIEWS


async def may(cluster: Cluster, user: str, groups: list[str], attributes: Manifest) -> bool:
    spec = {"user": user, "groups": groups, "resourceAttributes": attributes}
    answered = await cluster.create(SUBJECT_ACCESS_REVIEWS, {"spec": spec})
    return bool(answered["status"]["allowed"])


async def test_an_unknown_token_is_not_authenticated(cluster: Cluster) -> None:
    answered = await cluster.create(TOKEN_REVIEWS, {"spec": {"token": "no-such-token"}})
    assert not answered["status"].get("authenticated", False)
    assert not answered["status"].get("user", {}).get("username")


async def test_a_stranger_may_nothing_and_masters_everything(cluster: Cluster) -> None:
    evict = {"verb": "create", "resource": "pods", "subresource": "eviction", "namespace": "default"}
    assert not await may(cluster, "clusterheal-nobody", [], evict)
    assert await may(cluster, "clusterheal-somebody", ["system:masters"], evict)


async def test_reviews_are_not_stored(cluster: Cluster) -> None:
    answered = await cluster.create(TOKEN_REVIEWS, {"spec": {"token": "no-such-token"}})
    assert "uid" not in answered["metadata"]
