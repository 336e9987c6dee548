"""The thresholds, sizes and means of LVIS evaluation.

Those of Gupta et al., CVPR 2019 (https://arxiv.org/abs/1908.03195), as ``lvis`` 0.5.3 has them.
"""

import numpy as np

AP_METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf")
# ``lvis`` names the limit, too: AR@300. It has no recall of the frequency groups.
AR_METRICS = ("AR", "ARs", "ARm", "ARl", "ARr", "ARc", "ARf")
METRICS = AP_METRICS + AR_METRICS
TASKS = ("bbox", "segm")

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALL_THRESHOLDS = np.linspace(0.0, 1.0, 101)
# All, small, medium, large. A bound belongs to both of its neighbors.
AREA_RANGES = np.array([[0, 1e5**2], [0, 32**2], [32**2, 96**2], [96**2, 1e5**2]])
