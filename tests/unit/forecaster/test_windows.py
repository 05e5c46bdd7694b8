"""Training windows are the requests of serving, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from clusterheal_models.forecaster.windows import WindowSource, typical_change

from clusterheal.contracts import model_inputs
from clusterheal.errors import DataQualityError

from .conftest import WINDOW, panel_of, planted


@pytest.mark.parametrize("origin", [3, 60, 500, 887])
def test_training_cuts_exactly_the_windows_that_serving_cuts(origin: int) -> None:
    panel = panel_of(planted())
    source = WindowSource(panel, train_end=900, device=torch.device("cpu"))
    request = model_inputs(panel, origin=origin)
    batch = source.batch(torch.arange(len(source)), torch.full((len(source),), origin))
    entity = [0, 0, 1, 1, 2, 2, 3, 3, 4]  # two features per pod, one for the node
    for row, (e, f) in enumerate(zip(entity, batch.feature.tolist(), strict=True)):
        np.testing.assert_array_equal(batch.recent[row].numpy(), request.recent[e, :, f])
        np.testing.assert_array_equal(batch.seasonal[row].numpy(), request.seasonal[e, :, :, f])
        assert batch.timestamp[row] == request.timestamp[e]


def test_targets_of_a_sample_lie_inside_its_span() -> None:
    values = planted()
    values[:, :, :2] = np.where(np.isnan(values[:, :, :2]), np.nan, np.arange(900.0)[None, :, None])
    source = WindowSource(panel_of(values), train_end=900, device=torch.device("cpu"))
    batch = source.batch(*source.draw(500, 100, 200, torch.Generator().manual_seed(0)))
    steps = batch.target[batch.feature < 2]
    assert steps.min() >= 100
    assert steps.max() <= 199


def test_a_window_knows_nothing_after_its_origin() -> None:
    values = planted()
    changed = values.copy()
    changed[:, 501:] = 1e6
    cut = [
        WindowSource(panel_of(v), train_end=400, device=torch.device("cpu")).batch(
            torch.arange(4), torch.full((4,), 500)
        )
        for v in (values, changed)
    ]
    assert torch.equal(cut[0].recent.nan_to_num(), cut[1].recent.nan_to_num())
    assert torch.equal(cut[0].seasonal.nan_to_num(), cut[1].seasonal.nan_to_num())


def test_a_panel_without_any_change_is_refused_with_what_to_do() -> None:
    values = np.full((2, 300, 3), 4.0)
    with pytest.raises(DataQualityError, match="collect a longer history"):
        WindowSource(panel_of(values), train_end=300, device=torch.device("cpu"))


def test_the_scale_is_the_change_over_a_season_and_falls_back_when_history_is_short() -> None:
    ramp = torch.arange(200.0)[None]
    assert typical_change(ramp, WINDOW.season_steps, WINDOW.horizon_steps)[0] == 48
    assert typical_change(ramp[:, :40], WINDOW.season_steps, WINDOW.horizon_steps)[0] == 12
    assert typical_change(ramp[:, :3], WINDOW.season_steps, WINDOW.horizon_steps)[0] == 0
