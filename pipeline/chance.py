"""What chance does with small counts: exact tails, no normal approximation.

False incidents of a well calibrated model are rare and nearly independent, so their number is Poisson's, and what
one of two models finds of the same things and the other does not is a fair coin where both are equally good (the
sign test; of hits and misses McNemar, "Note on the sampling error of the difference between correlated
proportions", 1947).
"""

import math

import numpy as np


def most_by_chance(mean: float, level: float) -> int:
    """Return the largest count that a Poisson variable of this mean reaches with at least this probability."""
    reached, beyond = 0, 1
    while poisson_at_least(beyond, mean) >= level:
        reached, beyond = beyond, 2 * beyond
    while beyond - reached > 1:
        middle = (reached + beyond) // 2
        reached, beyond = (middle, beyond) if poisson_at_least(middle, mean) >= level else (reached, middle)
    return reached


def poisson_at_least(count: int, mean: float) -> float:
    """Return the probability of so many or more."""
    if count <= 0:
        return 1.0
    if mean <= 0:
        return 0.0
    below = np.arange(count)
    logs = below * math.log(mean) - mean - np.array([math.lgamma(k + 1) for k in below])
    return max(0.0, 1.0 - float(np.exp(logs).sum()))


def sign_test(against: int, for_it: int) -> float:
    """Return the probability of so many against it or more, were each a fair coin; 1 where there is none."""
    return binomial_at_least(against, against + for_it, 0.5)


def binomial_at_least(count: int, trials: int, share: float) -> float:
    """Return the probability of so many successes or more, each with the probability `share`, between 0 and 1."""
    if count <= 0:
        return 1.0
    some = range(count, trials + 1)
    whole = math.lgamma(trials + 1)
    logs = [
        whole
        - math.lgamma(k + 1)
        - math.lgamma(trials - k + 1)
        + k * math.log(share)
        + (trials - k) * math.log1p(-share)
        for k in some
    ]
    return min(1.0, float(np.exp(logs).sum()))
