"""Rules and dashboards as code: one source each, rendered into `manifests/` by `python -m scripts.monitoring`."""
