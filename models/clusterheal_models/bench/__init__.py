"""Benchmarks on recorded telemetry: the same `fit` and the same sealed packages as everywhere else."""
