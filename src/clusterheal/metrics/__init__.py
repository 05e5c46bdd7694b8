"""From Prometheus to a dataset of features."""
