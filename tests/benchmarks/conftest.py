"""Benchmarks are scripts beside each other, not a package."""

import sys

from tests.helpers import ROOT

sys.path.append(str(ROOT / "benchmarks"))
