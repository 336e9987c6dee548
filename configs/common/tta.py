"""Views of ``--eval-only --tta``: parts for ``tta``. The model is put in by train_net.py.

A scale is the length of the short edge and the limit of the long one. Averaging shared proposals
instead of uniting detections: ``tta.merge._target_=d2_seesaw.inference.MeanOverSharedProposals``.
"""

from detectron2.config import LazyCall as L

from d2_seesaw.inference import MultiViewInference, UnionOfDetections

# Detectron2's list of short edges. Each has the limit that makes the view a multiple of the one
# that plain testing sees, 800 with limit 1333, so that an image as wide as a panorama is one in no
# view; Detectron2's single limit of 4000 would make it 3 times as wide as in training.
test_size_multiples = L(MultiViewInference)(
    scales=[
        [400, 667],
        [500, 833],
        [600, 1000],
        [700, 1167],
        [800, 1333],
        [900, 1500],
        [1000, 1667],
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

# For images of 144 x 144, trained at that size alone.
quickstart = L(MultiViewInference)(
    scales=[[128, 128], [144, 144], [160, 160]],
    flip=True,
    merge=L(UnionOfDetections)(),
)
