"""A step is repeated in its pod while a server is away, and for no other reason."""

from __future__ import annotations

from pathlib import Path

import pytest
from clusterheal_components.repeating import repeated

from clusterheal.errors import ClusterhealError, DataQualityError, InvalidInput, PermanentError, RetryableError

COMPONENTS = Path(__file__).resolve().parents[2] / "components" / "clusterheal_components"
ALONE = {"gate", "notify", "plan_backfill", "train_detector", "train_forecaster"}  # ask no server, or must not fail


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLUSTERHEAL_PIPELINES__STEP_PAUSE", "PT0S")
    monkeypatch.setenv("CLUSTERHEAL_PIPELINES__STEP_ATTEMPTS", "3")


class Failing:
    """Raises what it was given, one after the other, then answers."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.calls = 0

    def __call__(self, word: str, *, times: int) -> str:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return word * times


def test_a_server_that_comes_back_is_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    call = Failing(RetryableError("registry answered 503"), RetryableError("registry answered 503"))
    assert repeated(call)("ab", times=2) == "abab"
    assert call.calls == 3
    assert [r.getMessage() for r in caplog.records if r.name == "clusterheal_components.repeating"] == [
        "try 1 of 3: registry answered 503",
        "try 2 of 3: registry answered 503",
    ]


def test_a_server_that_stays_away_ends_the_step() -> None:
    call = Failing(*(RetryableError(f"away {n}") for n in range(5)))
    with pytest.raises(RetryableError, match="away 2"):
        repeated(call)("ab", times=2)
    assert call.calls == 3


@pytest.mark.parametrize("error", [PermanentError("no"), InvalidInput("no"), DataQualityError("no"), ValueError("no")])
def test_what_waiting_does_not_change_is_done_once(error: Exception) -> None:
    call = Failing(error)
    with pytest.raises(type(error)):
        repeated(call)("ab", times=2)
    assert call.calls == 1


def test_every_component_that_asks_a_server_repeats_its_call() -> None:
    texts = {path.parent.name: path.read_text() for path in COMPONENTS.glob("*/component.py")}
    assert {name for name, text in texts.items() if "repeated(" not in text} == ALONE


def test_all_errors_but_one_are_final() -> None:
    def below(kind: type[Exception]) -> set[type[Exception]]:
        return {kind, *(found for sub in kind.__subclasses__() for found in below(sub))}

    assert not any(issubclass(kind, RetryableError) for kind in below(PermanentError) | below(InvalidInput))
    assert issubclass(RetryableError, ClusterhealError)
