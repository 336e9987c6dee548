"""Cascade ROI heads with one loss object per stage, trained as in Detectron2 or as in mmdet.

Shapes in this module:
    K: stages
    Ri: RoIs of image i
    C: foreground classes
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.roi_heads import CascadeROIHeads, select_foreground_proposals
from detectron2.modeling.roi_heads.fast_rcnn import fast_rcnn_inference
from detectron2.structures import Boxes, ImageList, Instances, pairwise_iou
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from d2_seesaw.modeling.roi_heads.mask_head import AveragedMaskHeads, HTCMaskHeads
from d2_seesaw.modeling.roi_heads.offset_pooler import check_pooler, pool_and_encode
from d2_seesaw.modeling.roi_heads.stages import Stage, fuse, refined_boxes, without_objects

SCORE_FUSIONS = ("logits", "probabilities")

MASK_ROIS = ("first", "last", "refined")

_SEVERAL_MASK_HEADS = (AveragedMaskHeads, HTCMaskHeads)


class LossDrivenCascadeROIHeads(CascadeROIHeads):
    """Detectron2's Cascade R-CNN with box predictors that take their losses as objects.

    The defaults train as Detectron2 does: the RoIs sampled for the first stage pass through all
    stages, all stages have the same loss weight, and the gradient of each into the features is
    divided by K. With ``resample=True, stage_loss_weights=[1, 0.5, 0.25]`` and a mask head per
    stage, it trains as mmdet does, with the settings of the published Seesaw models.

    Losses are named as in Detectron2, ``loss_cls_classes_stage0`` and so on; statistics are written
    to the event storage under ``stage0/``. Detectron2's base class requires class-agnostic boxes;
    here class-specific boxes work, too (see :func:`refined_boxes`).

    Args:
        box_heads: K modules from pooled RoIs to features, or that pool RoIs themselves, such as
            :class:`TSDBoxHead`.
        box_predictors: K predictors, such as :class:`LossDrivenOutputLayers`, each with its own
            classifier and loss, and thus class counts.
        proposal_matchers: K matchers, which define the foreground of each stage.
        mask_head: one module, a list of K, or ``HTCMaskHeads``. With several heads, head k is
            trained on the positives of stage k, with the stage's loss weight. In inference the
            sigmoids of the heads in a list are averaged on the final boxes.
        score_fusion: ``"logits"`` averages the K stages' logits and scores the mean (mmdet);
            ``"probabilities"`` averages their scores (Detectron2).
        resample: match, sample and append ground-truth boxes again in each stage (mmdet) instead of
            relabeling the first stage's RoIs (Detectron2). The refined versions of ground-truth
            boxes that the previous stage appended are then dropped, as in mmdet.
        stage_loss_weights: K factors on the stages' losses. None is Detectron2's scheme: factors of
            1, and gradients into the feature maps divided by K.
        mask_rois: RoIs that a single mask head is trained on: those of the ``"first"`` stage
            (Detectron2), of the ``"last"``, or ``"refined"``: the boxes that the last stage
            predicts, matched and labeled once more as in that stage. With several mask heads,
            ``"first"`` trains head k on the RoIs of stage k, and ``"refined"`` on the boxes that
            stage k predicts, as HTC does. Statistics of RoIs that only masks use are those of
            stages K to 2 K - 1.
        options: other arguments of ``CascadeROIHeads``.

    Raises:
        ValueError: an option is unknown, or list lengths differ.
    """

    box_predictor: nn.ModuleList

    def __init__(
        self,
        *,
        box_heads: Sequence[nn.Module],
        box_predictors: Sequence[nn.Module],
        proposal_matchers: Sequence[Matcher],
        mask_head: nn.Module | Sequence[nn.Module] | None = None,
        score_fusion: str = "logits",
        resample: bool = False,
        stage_loss_weights: Sequence[float] | None = None,
        mask_rois: str = "first",
        **options: Any,
    ) -> None:
        lengths = {"box_predictors": box_predictors, "proposal_matchers": proposal_matchers}
        if stage_loss_weights is not None:
            lengths["stage_loss_weights"] = stage_loss_weights
        if mask_head is not None and not isinstance(mask_head, nn.Module):
            mask_head = AveragedMaskHeads(mask_head)
        if isinstance(mask_head, _SEVERAL_MASK_HEADS):
            lengths["mask_head"] = mask_head
        _check_lengths(len(box_heads), lengths)
        _check_choice("score_fusion", score_fusion, SCORE_FUSIONS)
        _check_choice("mask_rois", mask_rois, MASK_ROIS)
        if isinstance(mask_head, _SEVERAL_MASK_HEADS) and mask_rois == "last":
            raise ValueError(
                f"mask_rois={mask_rois!r} needs a single mask head, but there are "
                f"{len(mask_head)}: head k is trained on the RoIs of stage k"
            )
        super().__init__(
            box_heads=list(box_heads),
            box_predictors=list(box_predictors),
            proposal_matchers=list(proposal_matchers),
            mask_head=mask_head,
            **options,
        )
        check_pooler(self.box_head, self.box_pooler)
        if score_fusion == "logits":
            _check_widths(self.box_predictor)
        # Once more, for the RoIs of masks: the boxes after a stage are matched as in that stage.
        self.proposal_matchers = [*proposal_matchers, *proposal_matchers]
        self.score_fusion = score_fusion
        self.resample = resample
        self.stage_loss_weights = stage_loss_weights and [float(w) for w in stage_loss_weights]
        self.mask_rois = mask_rois

    def forward(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """Return losses in training, detections in inference; see ``ROIHeads.forward``."""
        features = self.extended(features, proposals)
        if not self.training:
            return super().forward(images, features, proposals)
        if targets is None:
            raise ValueError("training needs targets: the inputs have no 'instances'")
        proposals = self.label_and_sample_proposals(proposals, targets)
        stages = self._run_stages(features, proposals, targets)
        losses = self._box_losses(stages)
        losses.update(self._mask_losses(features, stages, targets))
        losses.update(self._forward_keypoint(features, proposals))
        return proposals, losses

    def box_predictions(
        self, features: dict[str, Tensor], proposals: list[Instances]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return boxes and scores of given proposals, before any threshold or NMS.

        Args:
            features: feature maps by name, as the backbone returns them.
            proposals: per image, with ``proposal_boxes``.

        Returns:
            Per image, ``(Ri, 4)`` or ``(Ri, 4 C)`` boxes of the last stage, and ``(Ri, C + 1)``
            fused scores, background last; in the order of the proposals.
        """
        features = self.extended(features, proposals)
        return fuse(self._run_stages(features, proposals), self.score_fusion)

    def forward_with_given_boxes(
        self, features: dict[str, Tensor], instances: list[Instances]
    ) -> list[Instances]:
        """Predict masks for the boxes and classes of ``instances``."""
        return super().forward_with_given_boxes(self.extended(features, instances), instances)

    def extended(
        self, features: dict[str, Tensor], instances: list[Instances]
    ) -> dict[str, Tensor]:
        """Return ``features`` with the maps that the poolers of a subclass add, each once."""
        return features

    def _forward_box(
        self,
        features: dict[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> Any:
        stages = self._run_stages(self.extended(features, proposals), proposals, targets)
        if self.training:
            return self._box_losses(stages)
        boxes, scores = fuse(stages, self.score_fusion)
        last = stages[-1].predictor
        detections, _ = fast_rcnn_inference(
            boxes,
            scores,
            [p.image_size for p in proposals],
            last.test_score_thresh,
            last.test_nms_thresh,
            last.test_topk_per_image,
        )
        return detections

    def _run_stages(
        self,
        features: dict[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> list[Stage]:
        maps = [features[name] for name in self.box_in_features]
        stages: list[Stage] = []
        for k in range(self.num_cascade_stages):
            if k > 0:
                proposals = self._refined_proposals(stages[-1], k, targets)
            predictor: Any = self.box_predictor[k]
            stages.append(Stage(predictor, self._run_stage(maps, proposals, k), proposals))
        return stages

    def _run_stage(self, features: list[Tensor], proposals: list[Instances], stage: int) -> Any:
        boxes = [p.proposal_boxes for p in proposals]
        heads: Any = self.box_head
        scale = 1 / self.num_cascade_stages if self.stage_loss_weights is None else 1.0
        x = pool_and_encode(heads[stage], self.box_pooler, features, boxes, gradient_scale=scale)
        return self.box_predictor[stage](x)

    def _refined_proposals(
        self, stage: Stage, matcher: int, targets: list[Instances] | None
    ) -> list[Instances]:
        """Convert the predictions of a stage to RoIs, labeled if there are targets."""
        seen = stage.proposals
        boxes = refined_boxes(stage, self.num_classes)
        if targets is not None and self.resample:
            boxes = without_objects(boxes, seen, self.num_classes)
        proposals = self._create_proposals_from_boxes(boxes, [p.image_size for p in seen])
        if targets is None:
            return proposals
        return self._match_and_label_boxes(proposals, matcher, targets)

    def _create_proposals_from_boxes(self, boxes: Any, image_sizes: Any) -> list[Instances]:
        if not (self.training and self.resample):
            return super()._create_proposals_from_boxes(boxes, image_sizes)
        # Unlike Detectron2, mmdet keeps boxes without an area, as background.
        proposals = [
            Instances(size, proposal_boxes=Boxes(b.detach()))
            for b, size in zip(boxes, image_sizes, strict=True)
        ]
        for p in proposals:
            p.proposal_boxes.clip(p.image_size)
        return proposals

    @torch.no_grad()
    def _match_and_label_boxes(
        self, proposals: list[Instances], stage: int, targets: list[Instances]
    ) -> list[Instances]:
        if self.resample:
            for p in proposals:
                # Required because the ground truth that the sampler appends has it.
                p.objectness_logits = p.proposal_boxes.tensor.new_zeros(len(p))
            with self._matching_as(stage), get_event_storage().name_scope(f"stage{stage}"):
                return self.label_and_sample_proposals(proposals, targets)
        proposals = super()._match_and_label_boxes(proposals, stage, targets)
        if self.mask_on and self._masks_after_first_stage:
            self._copy_targets(proposals, stage, targets)
        return proposals

    @property
    def _masks_after_first_stage(self) -> bool:
        return self.mask_rois != "first" or isinstance(self.mask_head, _SEVERAL_MASK_HEADS)

    @contextmanager
    def _matching_as(self, stage: int) -> Iterator[None]:
        """Let the inherited sampling use the matcher of ``stage`` temporarily."""
        matcher = self.proposal_matcher
        self.proposal_matcher = self.proposal_matchers[stage]
        try:
            yield
        finally:
            self.proposal_matcher = matcher

    def _copy_targets(
        self, proposals: list[Instances], stage: int, targets: list[Instances]
    ) -> None:
        """Add the masks and other fields that Detectron2's relabeling does not copy."""
        for p, t in zip(proposals, targets, strict=True):
            if len(t) == 0:
                continue
            matched, _ = self.proposal_matchers[stage](pairwise_iou(t.gt_boxes, p.proposal_boxes))
            for name, values in t.get_fields().items():
                if name.startswith("gt_") and not p.has(name):
                    p.set(name, values[matched])

    def _weight(self, stage: int) -> float:
        return 1.0 if self.stage_loss_weights is None else self.stage_loss_weights[stage]

    def _box_losses(self, stages: list[Stage]) -> dict[str, Tensor]:
        losses: dict[str, Tensor] = {}
        for k, (predictor, predictions, proposals) in enumerate(stages):
            with get_event_storage().name_scope(f"stage{k}"):
                named = predictor.losses(predictions, proposals)
            losses |= {f"{n}_stage{k}": self._weight(k) * loss for n, loss in named.items()}
        return losses

    def _mask_losses(
        self, features: dict[str, Tensor], stages: list[Stage], targets: list[Instances]
    ) -> dict[str, Tensor]:
        if not self.mask_on:
            return {}
        matcher = self.num_cascade_stages
        if not isinstance(self.mask_head, _SEVERAL_MASK_HEADS):
            stage = stages[0 if self.mask_rois == "first" else -1]
            proposals = stage.proposals
            if self.mask_rois == "refined":
                proposals = self._refined_proposals(stage, 2 * matcher - 1, targets)
            return self._forward_mask(features, proposals)
        losses: dict[str, Tensor] = {}
        maps = [features[name] for name in self.mask_in_features]
        for k, stage in enumerate(stages):
            proposals = stage.proposals
            if self.mask_rois == "refined":
                proposals = self._refined_proposals(stage, matcher + k, targets)
            positives, _ = select_foreground_proposals(proposals, self.num_classes)
            pooled = self.mask_pooler(maps, [p.proposal_boxes for p in positives])
            with get_event_storage().name_scope(f"stage{k}"):
                named = self.mask_head.stage_losses(k, pooled, positives)
            losses |= {f"{n}_stage{k}": self._weight(k) * loss for n, loss in named.items()}
        return losses


def _check_lengths(num_stages: int, lists: dict[str, Any]) -> None:
    wrong = {name: len(values) for name, values in lists.items() if len(values) != num_stages}
    if wrong:
        raise ValueError(f"box_heads has {num_stages} stages, but the length differs in {wrong}")


def _check_choice(name: str, given: str, choices: Sequence[str]) -> None:
    if given not in choices:
        raise ValueError(f"{name} must be one of {list(choices)}, got {given!r}")


def _check_widths(predictors: nn.ModuleList) -> None:
    widths = [getattr(p.cls_score, "out_features", None) for p in predictors]
    if len(set(widths)) > 1:
        raise ValueError(
            f"the stages have {widths} logits, which cannot be averaged: use the same kind of loss "
            "in all stages, or score_fusion='probabilities'"
        )
