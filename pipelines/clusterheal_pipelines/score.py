# mypy: disable-error-code=untyped-decorator
"""The pipeline `score`: both models in service over a recent window, and whether the metrics have drifted."""

from clusterheal_components.build_dataset import build_dataset
from clusterheal_components.check_drift import check_drift
from clusterheal_components.collect import collect
from clusterheal_components.score_window import score_window
from kfp import dsl

from clusterheal_pipelines.cluster import FETCH, JUDGE, on_cluster
from clusterheal_pipelines.steps import TITLES, reporting


@dsl.pipeline(
    name="score",
    display_name="Score a window",
    description="Runs the models in service over recent metrics, keeps every verdict as Parquet, and reports alarm "
    "rate, interval coverage and drift against the training data.",
)
def score(days: float = 7.5, hours: float = 24.0) -> None:
    """Score recent metrics.

    Args:
        days: history to collect, in days; the models look back on seasons of up to seven.
        hours: length of the window to score, in hours, up to now.
    """
    with dsl.ExitHandler(reporting(), name="Score"):
        collected = on_cluster(collect(days=days), "Collect metrics", FETCH)
        built = build_dataset(start=collected.outputs["start"], end=collected.outputs["end"])
        dataset = on_cluster(built, "Build dataset", JUDGE).outputs["dataset"]
        for name, title in TITLES.items():
            on_cluster(score_window(dataset=dataset, name=name, hours=hours), f"Score {title}", JUDGE)
            on_cluster(check_drift(dataset=dataset, name=name), f"Check drift {title}", JUDGE)
