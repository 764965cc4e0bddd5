"""Intervals: how far an accuracy measured on n samples can be trusted, and a difference on the same samples."""

from math import sqrt
from statistics import NormalDist
from typing import Any

Z_95 = 1.959963984540054  # two-sided 95 % quantile of the normal distribution


def wilson(correct: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the interval of a proportion: `correct` of `n` -> (low, high), in 0..1; of confidence 0 it is the share.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).
    """
    if n == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share, z2 = correct / n, z * z
    centre = share + z2 / (2 * n)
    half = z * sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    low, high = (centre - half) / (1 + z2 / n), (centre + half) / (1 + z2 / n)
    return max(0.0, min(low, share)), min(1.0, max(high, share))  # it holds the share itself, rounding aside


def paired(right: Any, right_before: Any) -> dict[str, Any]:
    """Return what a step changed on the same samples: samples gained and lost, the difference and its 95 % interval.

    Both are boolean [n]. The interval is Agresti and Min's (2005, Statistics in Medicine 24): half a sample is added to
    each kind of pair, then Wald's.
    """
    n = len(right)
    gained, lost = int((right & ~right_before).sum()), int((~right & right_before).sum())
    centre = (gained - lost) / (n + 2)
    spread = Z_95 * sqrt(gained + lost + 1 - (gained - lost) ** 2 / (n + 2)) / (n + 2)
    return {
        "gained": gained,
        "lost": lost,
        "delta": round((gained - lost) / n, 6),
        "delta_low": round(centre - spread, 6),
        "delta_high": round(centre + spread, 6),
    }
