"""What is archived, and what never is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterheal.errors import InvalidInput
from clusterheal.registry.retention import plan_retention
from clusterheal.registry.versions import ModelVersion, State, version_name, version_number

NOW = datetime(2026, 6, 1, tzinfo=UTC)
MONTH = timedelta(days=30)


def version(number: int, state: State, *, days: float = 100.0) -> ModelVersion:
    return ModelVersion(
        name="m", version=version_name(number), state=state, state_since=NOW - timedelta(days=days), uri="file:///x/",
        package_sha256="p", contract_sha256="c", registered_model_id="1", version_id=str(number),
    )  # fmt: skip


def archived(versions: list[ModelVersion], *, keep: int = 0) -> list[int]:
    return [r.version.number for r in plan_retention(versions, keep=keep, older_than=MONTH, now=NOW)]


def test_old_candidates_rejected_and_earlier_previous_versions_go() -> None:
    states = [State.REJECTED, State.CANDIDATE, State.PREVIOUS, State.PREVIOUS, State.SERVING]
    assert archived([version(i + 1, s, days=100 - i) for i, s in enumerate(states)]) == [1, 2, 3]


def test_the_newest_ones_stay_whatever_they_are() -> None:
    versions = [version(i, State.REJECTED) for i in range(1, 8)]
    assert archived(versions, keep=5) == [1, 2]


def test_what_changed_lately_stays() -> None:
    assert archived([version(1, State.REJECTED, days=29), version(2, State.REJECTED, days=31)]) == [2]


def test_the_way_back_is_the_one_that_was_served_last_not_the_highest_number() -> None:
    assert archived([version(1, State.PREVIOUS, days=40), version(2, State.PREVIOUS, days=50)]) == [2]


@given(
    st.lists(st.tuples(st.sampled_from(State), st.floats(0, 400)), max_size=30),
    st.integers(min_value=0, max_value=10),
)
def test_service_shadow_fallback_and_the_newest_are_never_archived(drawn: list[tuple[State, float]], keep: int) -> None:
    versions = [version(i + 1, state, days=days) for i, (state, days) in enumerate(drawn)]
    gone = set(archived(versions, keep=keep))
    by_number = {v.number: v for v in versions}
    assert not {by_number[n].state for n in gone} & {State.SERVING, State.SHADOW, State.ARCHIVED}
    assert not gone & set(sorted(by_number)[len(by_number) - keep :] if keep else [])
    previous = [v for v in versions if v.state is State.PREVIOUS]
    if previous:
        assert max(previous, key=lambda v: (v.state_since, v.number)).number not in gone


def test_a_negative_count_is_refused() -> None:
    with pytest.raises(InvalidInput, match="negative"):
        plan_retention([], keep=-1, older_than=MONTH, now=NOW)


@given(st.integers(min_value=1, max_value=10**9))
def test_version_names_sort_as_their_numbers_and_come_back(number: int) -> None:
    assert version_number(version_name(number)) == number
    if number < 999_999:
        assert version_name(number) < version_name(number + 1)


@pytest.mark.parametrize("name", ["v1", "3", "v00001", "v000001x", "", "V000001"])
def test_other_names_are_not_ours(name: str) -> None:
    assert version_number(name) is None
