"""The Kubernetes API emulator: one store, an in-process front and an HTTP front, and small controllers.

What it emulates, and what it does not, is in docs/emulator.md; tests/conformance states the semantics.
"""
