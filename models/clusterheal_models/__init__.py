"""Torch models, their training, evaluation, calibration and export; `serving/` is the KServe server."""
