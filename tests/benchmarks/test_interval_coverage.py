"""A small version of the simulation of coverage."""

import numpy as np
import pytest

from benchmarks import interval_coverage


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [1, 3])
def test_where_nothing_differs_few_intervals_of_ap_exclude_zero(seeds):
    found = [interval_coverage.trial(i, seeds, 0.0, 100, True) for i in range(60)]
    for metric in interval_coverage.METRICS:
        low, high = np.array([t[metric][0][1:] for t in found]).T
        assert np.mean((low > 0) | (high < 0)) < 0.15  # 60 trials of 5 %
        assert (high > low).all()
