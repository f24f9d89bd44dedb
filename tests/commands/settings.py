"""A short simulated run with delays, planes and validation."""

SETTINGS = (
    "run.iterations=60",
    "run.evaluate_every=10",
    "delay.model=lognormal",
    "delay.mean=1",
    "algorithm.tolerance=0",
    "algorithm.plane_period=5",
)
