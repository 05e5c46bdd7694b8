"""Frozen types that cross a stage boundary. Imports nothing of ours but `errors`."""

from clusterheal.contracts.features import EntityKind, FeatureContract, FeatureSpec, WindowSpec, default_window
from clusterheal.contracts.frames import (
    FeaturePanel,
    Float32,
    Int64,
    MetricFrame,
    ModelInputs,
    TimeSplit,
    entity_key,
    model_inputs,
    split_entity_key,
)
from clusterheal.contracts.incidents import (
    Diagnosis,
    GuardVerdict,
    Incident,
    IncidentState,
    ObjectRef,
    Outcome,
    Plan,
    Signal,
    SignalSource,
    Verdict,
)
from clusterheal.contracts.packages import DETECTOR, FORECASTER, ModelPackage, seal_package
from clusterheal.contracts.verdicts import Band, Detection, Forecast

__all__ = [
    "DETECTOR",
    "FORECASTER",
    "Band",
    "Detection",
    "Diagnosis",
    "EntityKind",
    "FeatureContract",
    "FeaturePanel",
    "FeatureSpec",
    "Float32",
    "Forecast",
    "GuardVerdict",
    "Incident",
    "IncidentState",
    "Int64",
    "MetricFrame",
    "ModelInputs",
    "ModelPackage",
    "ObjectRef",
    "Outcome",
    "Plan",
    "Signal",
    "SignalSource",
    "TimeSplit",
    "Verdict",
    "WindowSpec",
    "default_window",
    "entity_key",
    "model_inputs",
    "seal_package",
    "split_entity_key",
]
