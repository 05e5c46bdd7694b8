"""A refusal of the API server names what a person has to change."""

from __future__ import annotations

from typing import Any

import pytest
from engine_kit import CART, NOW, action, deployment

from clusterheal.engine.actions import Refused
from clusterheal.engine.actions.apply import rehearse
from clusterheal.kube.ports import ApiError

USER = 'User "system:serviceaccount:platform:engine" cannot patch resource'


class Server:
    """Has the target and refuses every patch of it."""

    def __init__(self, message: str) -> None:
        self.message = message

    async def get(self, *_: Any, **__: Any) -> Any:
        return deployment()

    async def patch(self, *_: Any, **__: Any) -> Any:
        raise ApiError(403, "Forbidden", self.message)


class Clock:
    def now(self) -> Any:
        return NOW


@pytest.mark.parametrize(
    ("message", "says", "silent"),
    [
        (f'deployments.apps "cart" is forbidden: {USER} "deployments" in API group "apps"', "remediation-enforce", ""),
        ('deployments.apps "cart" is forbidden: exceeded quota: compute', "exceeded quota", "remediation-enforce"),
        ('admission webhook "policy.example" denied the request: no restarts', "no restarts", "ClusterRole"),
    ],
)
async def test_a_missing_right_is_told_from_a_policy_of_the_cluster(message: str, says: str, silent: str) -> None:
    with pytest.raises(Refused) as refused:
        await rehearse(Server(message), action(target=CART), "cart-1", clock=Clock())  # type: ignore[arg-type]
    assert says in str(refused.value)
    assert not silent or silent not in str(refused.value)
