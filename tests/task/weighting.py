"""Means over reference rows at given shares of the classes, written out."""

import numpy as np


def weighted(p: np.ndarray, labels: np.ndarray, pi: np.ndarray) -> np.ndarray:
    """The mean of p (I, B, U) at shares ``pi``, class by class."""
    there = sorted(set(labels.tolist()))
    mean = np.zeros((len(p), len(pi)))
    for cls in range(len(pi)):
        for own in [cls] if cls in there else there:
            share = pi[cls] * (1 if cls in there else pi[own] / pi[there].sum())
            exchanged = np.arange(len(pi))
            exchanged[[cls, own]] = own, cls
            mean += share * p[:, labels == own].mean(axis=1)[:, exchanged]
    return mean
