"""A run that serves an earlier one's models: which it takes, and what it refuses before it starts anything."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from clusterheal_models.serving.toy import toy_detector, toy_forecaster

from clusterheal.contracts import DETECTOR, FORECASTER, FeatureContract
from clusterheal.errors import InvalidInput, PackageInvalid
from clusterheal.local.demo_models import open_models, require_same_metrics
from clusterheal.local.report_record import RunRecord
from clusterheal.metrics.catalogue import load_catalogue, recorded_catalogue

MINUTE = timedelta(minutes=1)


def earlier_run(folder: Path, contract: FeatureContract) -> Path:
    """What a run leaves of its models."""
    toy_detector(folder / "models" / DETECTOR / "v000001", contract)
    toy_forecaster(folder / "models" / FORECASTER / "v000001", contract)
    models = [{"name": name, "version": "v000001"} for name in (DETECTOR, FORECASTER)]
    RunRecord(source="", notes=[], seed=7, models=models).save(folder)
    return folder


def test_the_models_of_the_same_metrics_are_taken(tmp_path: Path) -> None:
    folder = earlier_run(tmp_path / "earlier", load_catalogue().contract(MINUTE))
    earlier = open_models(folder, out=tmp_path / "out")
    require_same_metrics(earlier, None)
    assert [earlier.package(model).parent.name for model in earlier.models] == [DETECTOR, FORECASTER]


@pytest.mark.parametrize(
    ("contract", "told"),
    [
        (recorded_catalogue(("m00",)).contract(MINUTE), "reads m00 every 60 s"),
        (load_catalogue().contract(5 * MINUTE), "reads the same metrics every 300 s"),
    ],
)
def test_models_of_other_metrics_or_steps_are_refused(tmp_path: Path, contract: FeatureContract, told: str) -> None:
    earlier = open_models(earlier_run(tmp_path / "earlier", contract), out=tmp_path / "out")
    with pytest.raises(InvalidInput, match=told):
        require_same_metrics(earlier, None)


def test_a_run_s_own_folder_one_without_models_and_a_changed_package_are_refused(tmp_path: Path) -> None:
    folder = earlier_run(tmp_path / "earlier", load_catalogue().contract(MINUTE))
    with pytest.raises(InvalidInput, match="this run's own folder"):
        open_models(folder, out=folder)
    with pytest.raises(InvalidInput, match="this run's own folder"):
        open_models(folder, out=tmp_path)
    card = folder / "models" / DETECTOR / "v000001" / "MODEL_CARD.md"
    card.chmod(0o644)
    card.write_text("another")
    with pytest.raises(PackageInvalid, match=r"MODEL_CARD\.md"):
        open_models(folder, out=tmp_path / "out")
    RunRecord(source="", notes=[], seed=7).save(folder)
    with pytest.raises(InvalidInput, match="got none"):
        open_models(folder, out=tmp_path / "out")
