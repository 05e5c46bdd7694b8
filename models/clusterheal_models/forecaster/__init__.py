"""The torch quantile forecaster."""
