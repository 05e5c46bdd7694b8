"""The forecaster `predictive-analytics`: one shared quantile model for all metrics and entities."""

from clusterheal_models.forecaster.config import LEVELS, ForecasterConfig, MemberConfig
from clusterheal_models.forecaster.model import Forecaster, fit

__all__ = ["LEVELS", "Forecaster", "ForecasterConfig", "MemberConfig", "fit"]
