"""Views of ``--eval-only --tta``: parts for ``tta``. The model is put in by train_net.py.

A scale is the length of the short edge and the limit of the long one. Averaging shared proposals
instead of uniting detections: ``tta.merge._target_=d2_seesaw.inference.MeanOverSharedProposals``.
"""

from detectron2.config import LazyCall as L

from d2_seesaw.inference import MultiViewInference, UnionOfDetections

# Detectron2's list of short edges. Each has the limit that makes every image's view a multiple of
# what plain testing sees, 800 with limit 1333. Detectron2's one limit of 4000 would blow panoramas
# up to three times the width of training.
test_size_multiples = L(MultiViewInference)(
    scales=[
        [400, 667],
        [500, 833],
        [600, 1000],
        [700, 1166],
        [800, 1333],
        [900, 1500],
        [1000, 1666],
        [1100, 1833],
        [1200, 2000],
    ],
    flip=True,
    merge=L(UnionOfDetections)(),
)

# The winning entry of the LVIS 2020 challenge: long edges.
challenge = L(MultiViewInference)(
    scales=[[1200, 1200], [1400, 1400], [1600, 1600], [1800, 1800], [2000, 2000]],
    flip=True,
    merge=L(UnionOfDetections)(),
)

# For images of 144 x 144. Larger views help the small objects there; smaller ones, tried as well,
# take away box AP (README).
quickstart = L(MultiViewInference)(
    scales=[[144, 144], [168, 168], [192, 192]],
    flip=True,
    merge=L(UnionOfDetections)(),
)
