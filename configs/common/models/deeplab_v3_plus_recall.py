"""DeepLab v3+ as the authors of Recall Loss build it, with a replaceable loss.

Their "resnet18" has bottleneck blocks: 2, 2, 2 and 3 of them, the last three with multi-grid
dilation, and 2048 output channels. It has 35.3 million parameters. Recorded numbers of their code
show that the forward pass and the gradients are equal (tests/modeling/test_authors_deeplab.py).
"""

from d2_seesaw.modeling import CornerAlignedDeepLabV3PlusHead

from .deeplab_v3_plus_r18 import model

# They train on one GPU or with statistics of each GPU.
model.backbone.stem.norm = "BN"
model.backbone.stages.update(bottleneck=True, multi_grid=[1, 2, 4])
model.sem_seg_head.update(
    _target_=CornerAlignedDeepLabV3PlusHead, aspp_dropout=0.5, decoder_dropout=[0.5, 0.1]
)
model.sem_seg_head.input_shape.res2.channels = 256
model.sem_seg_head.input_shape.res5.channels = 2048
