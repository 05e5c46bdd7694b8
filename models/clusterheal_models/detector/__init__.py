"""The torch anomaly detector."""
