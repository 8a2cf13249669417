"""Statistics of counts."""

from __future__ import annotations

import math

_Z95 = 1.959963984540054  # 97.5 % quantile of the standard normal distribution


def wilson_interval(successes: int, total: int) -> tuple[float, float]:
    """95 % score interval of a proportion (Wilson 1927); also right at 0 and at 1, where ±1.96 standard errors is not.

    ``total`` ≥ 1 and 0 ≤ ``successes`` ≤ ``total``, else ValueError.
    """
    if not 0 <= successes <= total or total < 1:
        raise ValueError(f"{successes} of {total} is not a proportion")
    share, spread = successes / total, _Z95**2 / total
    centre = (share + spread / 2) / (1 + spread)
    half = _Z95 * math.sqrt(share * (1 - share) / total + spread / (4 * total)) / (1 + spread)
    # At the ends the bound is the end itself; rounding must not move it.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == total else min(1.0, centre + half)
    return low, high
