"""The anomaly detector: scores per entity and metric, calibrated and explained."""

from clusterheal_models.detector.config import DetectorConfig
from clusterheal_models.detector.model import Detector, fit

__all__ = ["Detector", "DetectorConfig", "fit"]
