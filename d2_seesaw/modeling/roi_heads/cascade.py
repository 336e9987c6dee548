"""Cascade ROI heads with a loss object per stage, trained as Detectron2 or as mmdet trains them.

Shapes in this module:
    K: stages
    Ri: RoIs of image i
    C: foreground classes
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.roi_heads import CascadeROIHeads, select_foreground_proposals
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers, fast_rcnn_inference
from detectron2.structures import ImageList, Instances, pairwise_iou
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from d2_seesaw.modeling.roi_heads.fast_rcnn import Predictions
from d2_seesaw.modeling.roi_heads.mask_head import AveragedMaskHeads
from d2_seesaw.modeling.roi_heads.offset_pooler import check_pooler, pool_and_encode

SCORE_FUSIONS = ("logits", "probabilities")

MASK_ROIS = ("first", "last", "refined")


class Stage(NamedTuple):
    """What one stage saw and said: logits first, then what its predictor decodes boxes from."""

    predictor: FastRCNNOutputLayers
    predictions: Predictions
    proposals: list[Instances]


def refined_boxes(stage: Stage, num_classes: int) -> list[Tensor]:
    """Per image, the ``(Ri, 4)`` box that each RoI of ``stage`` has become.

    Of class-specific boxes it is that of the RoI's true class if it has one, which is the case in
    training alone, and else that of its best-scored class; as in mmdet's ``refine_bboxes``.
    """
    predictor, predictions, proposals = stage
    boxes = list(predictor.predict_boxes(predictions, proposals))
    if all(b.shape[1] == 4 for b in boxes):
        return boxes
    scores = predictor.predict_probs(predictions, proposals)
    refined = []
    for b, s, p in zip(boxes, scores, proposals, strict=True):
        classes = s[:, :-1].argmax(dim=1)
        if p.has("gt_classes"):
            classes = torch.where(_is_foreground(p, num_classes), p.gt_classes, classes)
        index = torch.arange(len(b), device=b.device)
        refined.append(b.view(len(b), num_classes, 4)[index, classes])
    return refined


def without_objects(
    boxes: list[Tensor], proposals: list[Instances], num_classes: int
) -> list[Tensor]:
    """Leave out the boxes of RoIs that are a ground-truth box themselves, appended by sampling.

    Args:
        boxes: per image ``(Ri, 4)``, what the RoIs have become.
        proposals: per image, the RoIs with their ``gt_classes`` and, where there are objects,
            ``gt_boxes``.
        num_classes: C.
    """
    kept = []
    for b, p in zip(boxes, proposals, strict=True):
        if p.has("gt_boxes"):
            same = (p.proposal_boxes.tensor == p.gt_boxes.tensor).all(dim=1)
            b = b[~(same & _is_foreground(p, num_classes))]
        kept.append(b)
    return kept


def fuse(stages: list[Stage], how: str) -> tuple[list[Tensor], list[Tensor]]:
    """Per image, the last stage's boxes and the fused scores of all stages.

    Args:
        stages: of one cascade in inference, so all with the same number of RoIs.
        how: ``"logits"``: the last predictor scores the mean logits. Which one does not matter:
            scores depend on the kind of loss, not on the counts that each loss holds.
            ``"probabilities"``: the mean of the stages' scores.

    Returns:
        ``(Ri, 4)`` or ``(Ri, 4 C)`` boxes and ``(Ri, C + 1)`` scores, background last.
    """
    predictor, predictions, proposals = stages[-1]
    boxes = list(predictor.predict_boxes(predictions, proposals))
    if how == "logits":
        logits = torch.stack([s.predictions[0] for s in stages])
        # Under autocast they are half-precision, which scores do not have to be.
        precise = torch.promote_types(logits.dtype, torch.float32)
        logits = logits.mean(dim=0, dtype=precise)
        return boxes, list(predictor.predict_probs((logits, *predictions[1:]), proposals))
    of_stages = [s.predictor.predict_probs(s.predictions, s.proposals) for s in stages]
    return boxes, [torch.stack(image).mean(dim=0) for image in zip(*of_stages, strict=True)]


def _is_foreground(proposals: Instances, num_classes: int) -> Tensor:
    labels = proposals.gt_classes
    return (labels >= 0) & (labels < num_classes)


class LossDrivenCascadeROIHeads(CascadeROIHeads):
    """Detectron2's Cascade R-CNN whose box predictors are driven by their losses.

    With the defaults it trains as Detectron2's: the RoIs sampled for the first stage go through all
    stages, every stage's loss counts alike, and the gradient that each sends into the features is
    divided by their number. With ``resample=True, stage_loss_weights=[1, 0.5, 0.25]`` and a mask
    head per stage it trains as mmdet's, whose settings the published Seesaw models have.

    Losses are named as Detectron2 names them, ``loss_cls_classes_stage0`` and so on; statistics go
    to the event storage below ``stage0/``. Detectron2's base class wants class-agnostic boxes; here
    class-specific ones work too: the box that goes on to the next stage is that of the RoI's true
    class in training, and of its best-scored class where it has none and in inference, as in mmdet.

    Args:
        box_heads: K modules from pooled RoIs to features, or that pool RoIs themselves, such as
            :class:`TSDBoxHead`.
        box_predictors: K predictors, such as :class:`LossDrivenOutputLayers`: each has a classifier
            and a loss (so class counts) of its own.
        proposal_matchers: K matchers, which decide what is foreground in each stage.
        mask_head: one module, or K in a list: then head k is trained on the positives of stage k,
            its loss times the stage's weight, and in inference the sigmoids of all heads are
            averaged on the final boxes.
        score_fusion: ``"logits"`` averages the K stages' logits and scores the mean (mmdet);
            ``"probabilities"`` averages their scores (Detectron2).
        resample: match, sample and append ground-truth boxes anew in each stage (mmdet), rather
            than relabel the first stage's RoIs (Detectron2). The refined versions of the
            ground-truth boxes appended in the stage before are then left out, as in mmdet.
        stage_loss_weights: K factors on the stages' losses. None is Detectron2's scheme instead:
            factors of 1, and gradients into the feature maps divided by K.
        mask_rois: where a single mask head is trained: on the RoIs of the ``"first"`` stage
            (Detectron2), of the ``"last"``, or ``"refined"``, which are the boxes the last stage
            predicts, matched and labelled once more as in that stage.
        options: the other arguments of ``CascadeROIHeads``.

    Raises:
        ValueError: an unknown option, or lists whose lengths do not fit each other.
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
            lengths["mask_head"] = mask_head
            mask_head = AveragedMaskHeads(mask_head)
        _check_lengths(len(box_heads), lengths)
        _check_choice("score_fusion", score_fusion, SCORE_FUSIONS)
        _check_choice("mask_rois", mask_rois, MASK_ROIS)
        if isinstance(mask_head, AveragedMaskHeads) and mask_rois != "first":
            raise ValueError(
                f"mask_rois={mask_rois!r} is for a single mask head, but mask_head is a list of "
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
        # One more: the boxes after the last stage are matched as those before it.
        self.proposal_matchers = [*proposal_matchers, proposal_matchers[-1]]
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
        """Losses in training, detections in inference; see ``ROIHeads.forward``."""
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
        """Boxes and scores for given proposals, before any threshold or suppression.

        Args:
            features: by name, as the backbone returns them.
            proposals: per image, with ``proposal_boxes``.

        Returns:
            Per image, ``(Ri, 4)`` or ``(Ri, 4 C)`` boxes of the last stage, and ``(Ri, C + 1)``
            scores of all stages, background last; in the order of the proposals.
        """
        return fuse(self._run_stages(features, proposals), self.score_fusion)

    def _forward_box(
        self,
        features: dict[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> Any:
        stages = self._run_stages(features, proposals, targets)
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
                proposals = self._next_proposals(stages, targets)
            predictor: Any = self.box_predictor[k]
            stages.append(Stage(predictor, self._run_stage(maps, proposals, k), proposals))
        return stages

    def _run_stage(self, features: list[Tensor], proposals: list[Instances], stage: int) -> Any:
        boxes = [p.proposal_boxes for p in proposals]
        heads: Any = self.box_head
        scale = 1 / self.num_cascade_stages if self.stage_loss_weights is None else 1.0
        x = pool_and_encode(heads[stage], self.box_pooler, features, boxes, gradient_scale=scale)
        return self.box_predictor[stage](x)

    def _next_proposals(
        self, stages: list[Stage], targets: list[Instances] | None
    ) -> list[Instances]:
        """What the last of ``stages`` predicts, as RoIs; labelled where there are targets."""
        seen = stages[-1].proposals
        boxes = refined_boxes(stages[-1], self.num_classes)
        if targets is not None and self.resample:
            boxes = without_objects(boxes, seen, self.num_classes)
        proposals = self._create_proposals_from_boxes(boxes, [p.image_size for p in seen])
        if targets is None:
            return proposals
        return self._match_and_label_boxes(proposals, len(stages), targets)

    @torch.no_grad()
    def _match_and_label_boxes(
        self, proposals: list[Instances], stage: int, targets: list[Instances]
    ) -> list[Instances]:
        if self.resample:
            for p in proposals:
                # Only there because the sampler's appended ground truth has it.
                p.objectness_logits = p.proposal_boxes.tensor.new_zeros(len(p))
            with self._matching_as(stage), get_event_storage().name_scope(f"stage{stage}"):
                return self.label_and_sample_proposals(proposals, targets)
        proposals = super()._match_and_label_boxes(proposals, stage, targets)
        if self.mask_on and self._masks_after_first_stage:
            self._copy_targets(proposals, stage, targets)
        return proposals

    @property
    def _masks_after_first_stage(self) -> bool:
        return self.mask_rois != "first" or isinstance(self.mask_head, AveragedMaskHeads)

    @contextmanager
    def _matching_as(self, stage: int) -> Iterator[None]:
        """Let the inherited sampling use the matcher of ``stage``."""
        matcher = self.proposal_matcher
        self.proposal_matcher = self.proposal_matchers[stage]
        try:
            yield
        finally:
            self.proposal_matcher = matcher

    def _copy_targets(
        self, proposals: list[Instances], stage: int, targets: list[Instances]
    ) -> None:
        """Add what the host's relabelling leaves out: masks and other fields of the matched."""
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
        if not isinstance(self.mask_head, AveragedMaskHeads):
            if self.mask_rois == "refined":
                return self._forward_mask(features, self._next_proposals(stages, targets))
            stage = stages[0 if self.mask_rois == "first" else -1]
            return self._forward_mask(features, stage.proposals)
        losses: dict[str, Tensor] = {}
        maps = [features[name] for name in self.mask_in_features]
        for k, (stage, head) in enumerate(zip(stages, self.mask_head, strict=True)):
            positives, _ = select_foreground_proposals(stage.proposals, self.num_classes)
            pooled = self.mask_pooler(maps, [p.proposal_boxes for p in positives])
            with get_event_storage().name_scope(f"stage{k}"):
                named = head(pooled, positives)
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
            f"the stages have {widths} logits, which cannot be averaged: give all stages losses of "
            "one kind, or score_fusion='probabilities'"
        )
