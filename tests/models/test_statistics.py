from __future__ import annotations

import pytest
from scipy.stats import binomtest

from models.statistics import wilson_interval


@pytest.mark.parametrize(
    ("successes", "total"), [(0, 10), (10, 10), (1, 1), (0, 1), (37, 100), (412, 1000), (9999, 10_000)]
)
def test_the_interval_is_scipys(successes, total):
    theirs = binomtest(successes, total).proportion_ci(0.95, method="wilson")
    assert wilson_interval(successes, total) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


@pytest.mark.parametrize(("successes", "total"), [(0, 0), (2, 1), (-1, 3)])
def test_what_is_no_proportion_is_refused(successes, total):
    with pytest.raises(ValueError, match="not a proportion"):
        wilson_interval(successes, total)
