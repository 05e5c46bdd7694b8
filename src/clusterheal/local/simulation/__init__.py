"""The whole engine on a simulated clock, scheduler and API server, with seeded faults, checked at every write.

`python -m clusterheal.local.simulation --seeds N` runs N seeds; `--seed S` replays one.
"""
