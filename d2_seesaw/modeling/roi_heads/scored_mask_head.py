"""A mask head that says how good its masks are: Mask Scoring (https://arxiv.org/abs/1903.00241).

Shapes in this module:
    B: RoIs of all images
    N: detections of an image
"""

from typing import Any

import torch
from detectron2.structures import Instances
from torch import Tensor, nn

from d2_seesaw.modeling.roi_heads.mask_head import MaskHeadWithPredictor
from d2_seesaw.modeling.roi_heads.mask_iou_head import MaskIoUHead
from d2_seesaw.modeling.roi_heads.mask_scoring import mask_iou_targets


class ScoredMaskHead(nn.Module):
    """A mask head with a mask-IoU head, as the mask head of any of Detectron2's ROI heads.

    In training there is one more loss, ``loss_mask_iou``. In inference detections get a second
    score, ``mask_scores``: their score times the IoU predicted for their masks. ``scores`` stay
    what they are, those of boxes; the evaluators of this project rank masks by ``mask_scores``.

    In :class:`~d2_seesaw.modeling.LossDrivenCascadeROIHeads` with one mask head, the IoU head is
    trained where the mask head is, on ``mask_rois``. With one per stage each has an IoU head of its
    own, and mask scores are averaged as the masks are.

    Args:
        mask_head: predicts the masks.
        iou_head: predicts their IoUs from the same features.
        mask_threshold: what mask logits must exceed to be mask in the targets of ``iou_head``.

    Raises:
        ValueError: another kind of mask head, or heads of different numbers of classes.
    """

    def __init__(
        self, mask_head: nn.Module, *, iou_head: MaskIoUHead, mask_threshold: float = 0.0
    ) -> None:
        super().__init__()
        if not isinstance(mask_head, MaskHeadWithPredictor):
            raise ValueError(
                "mask_head must be a MaskHeadWithPredictor, which has the logits of one class; got "
                f"{type(mask_head).__name__}. Of several mask heads each is wrapped by itself"
            )
        classes = [getattr(mask_head.predictor, "out_channels", None), iou_head.num_classes]
        if len(set(classes) - {None, 1}) > 1:
            raise ValueError(
                f"num_classes of the mask head is {classes[0]}, that of the mask-IoU head is "
                f"{classes[1]}: they must be equal, or one of them 1"
            )
        self.mask_head = mask_head
        self.iou_head = iou_head
        self.mask_threshold = mask_threshold

    def forward(self, x: Tensor, instances: list[Instances]) -> Any:
        """Losses in training, ``instances`` with masks and their scores in inference.

        Args:
            x: ``(B, channels, H, W)`` features of all RoIs.
            instances: per image, with ``proposal_boxes``, ``gt_classes`` and ``gt_masks``, or with
                ``pred_classes``. Without ``scores`` they get ``pred_masks`` alone.
        """
        logits = self.mask_head.class_logits(x, instances)
        results = self.mask_head.results(logits, instances)
        classes = torch.cat([i.gt_classes if self.training else i.pred_classes for i in instances])
        ious = self.iou_head(x, logits, classes)
        if self.training:
            targets = mask_iou_targets(logits, instances, threshold=self.mask_threshold)
            return results | {"loss_mask_iou": self.iou_head.loss(ious, targets)}
        for i, of_image in zip(instances, ious.split([len(i) for i in instances]), strict=True):
            if i.has("scores"):
                i.mask_scores = i.scores * of_image
        return instances
