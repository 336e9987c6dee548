"""Views of ``--eval-only --tta``: parts for ``tta``. train_net.py adds the model.

A scale is the length of the short edge and the limit of the long one. To average the scores of
shared proposals instead of merging detections:
``tta.merge._target_=d2_seesaw.inference.MeanOverSharedProposals``.
"""

from detectron2.config import LazyCall as L

from d2_seesaw.inference import MultiViewInference, UnionOfDetections

# Detectron2's short edges. The limits keep the ratio of plain testing (800, at most 1333), so that
# each view of an image is a multiple of its test size. Detectron2's single limit of 4000 would
# enlarge panoramas to three times the width seen in training.
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

# For images of 144 x 144. Larger views help small objects; smaller ones cost box AP (model zoo).
quickstart = L(MultiViewInference)(
    scales=[[144, 144], [168, 168], [192, 192]],
    flip=True,
    merge=L(UnionOfDetections)(),
)

# For models that take squares of 1024 pixels, such as plain vision transformers.
long_edge_1024 = L(MultiViewInference)(
    scales=[[640, 640], [768, 768], [896, 896], [1024, 1024]],
    flip=True,
    merge=L(UnionOfDetections)(),
)
