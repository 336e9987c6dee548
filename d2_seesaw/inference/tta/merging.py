"""Two ways to merge the boxes of the views of an image.

Shapes in this module:
    N: boxes that are kept
    R: proposals
    C: foreground classes
"""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from detectron2.modeling.roi_heads import CascadeROIHeads, StandardROIHeads
from detectron2.modeling.roi_heads.fast_rcnn import fast_rcnn_inference_single_image
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn
from torchvision.ops import nms

from d2_seesaw.inference.tta.views import Size, View, ViewRunner

BoxesAndScores = tuple[list[Tensor], list[Tensor]]
"""``(R, 4)`` or ``(R, 4 C)`` boxes and ``(R, C + 1)`` scores of each image, background last."""


def box_predictions(
    heads: Any, features: dict[str, Tensor], proposals: list[Instances]
) -> BoxesAndScores:
    """Predict boxes and scores of given proposals.

    Heads that override the box part, such as our cascade and HTC-Lite, have a method of this name
    and signature (without ``heads``), which is then called. Other heads must use the box part of
    Detectron2's standard or cascade heads.

    Args:
        heads: ROI heads in evaluation mode.
        features: Features of the backbone.
        proposals: Instances of each image, with ``proposal_boxes``.

    Raises:
        ValueError: the heads override the box part of Detectron2 and have no such method.
    """
    if hasattr(heads, "box_predictions"):
        return heads.box_predictions(features, proposals)
    if _inherits(heads, CascadeROIHeads):
        return _score_cascade(heads, features, proposals)
    if _inherits(heads, StandardROIHeads):
        return _score_standard(heads, features, proposals)
    raise ValueError(
        f"{type(heads).__name__} overrides the box part: averaging over views needs its method "
        "box_predictions(features, proposals); the union of detections works without it"
    )


def _inherits(heads: Any, host: type) -> bool:
    """Return whether ``heads`` use the box part of ``host``."""
    parts = ("forward", "_forward_box")
    return isinstance(heads, host) and all(
        getattr(type(heads), part) is getattr(host, part) for part in parts
    )


def _score_standard(
    heads: StandardROIHeads, features: dict[str, Tensor], proposals: list[Instances]
) -> BoxesAndScores:
    levels = [features[name] for name in heads.box_in_features]
    pooled = heads.box_pooler(levels, [p.proposal_boxes for p in proposals])
    predictor: Any = heads.box_predictor
    predictions = predictor(heads.box_head(pooled))
    boxes = predictor.predict_boxes(predictions, proposals)
    return list(boxes), list(predictor.predict_probs(predictions, proposals))


def _score_cascade(
    heads: CascadeROIHeads, features: dict[str, Tensor], proposals: list[Instances]
) -> BoxesAndScores:
    """Run the inference branch of ``CascadeROIHeads._forward_box`` up to its NMS."""
    levels = [features[name] for name in heads.box_in_features]
    sizes = [p.image_size for p in proposals]
    predictors: Any = heads.box_predictor
    stages, boxes = [], []
    for stage in range(heads.num_cascade_stages):
        if stage > 0:
            proposals = heads._create_proposals_from_boxes(boxes, sizes)
        predictions = heads._run_stage(levels, proposals, stage)
        boxes = predictors[stage].predict_boxes(predictions, proposals)
        stages.append(predictors[stage].predict_probs(predictions, proposals))
    return list(boxes), [torch.stack(scores).mean(0) for scores in zip(*stages, strict=True)]


@dataclass(frozen=True)
class MergedBoxes:
    """Boxes in the frame, best first, with the views that found them.

    Args:
        boxes: ``(N, 4)`` boxes inside the frame.
        scores: ``(N,)`` scores.
        classes: ``(N,)`` classes.
        source: ``(N,)`` number of the view that found the box, or -1 for boxes of all views.
        seen: ``(N, 4)`` boxes in coordinates of these views.
    """

    boxes: Tensor
    scores: Tensor
    classes: Tensor
    source: Tensor
    seen: Tensor

    def in_view(self, view: View) -> Tensor:
        """Return ``(N, 4)`` boxes in a view; the boxes that it found are unchanged."""
        own = (self.source == view.number)[:, None]
        return torch.where(own, self.seen, view.to_view(self.boxes))

    @classmethod
    def cat(cls, parts: "list[MergedBoxes]") -> "MergedBoxes":
        """Concatenate the boxes of all parts."""
        return cls(*(torch.cat(field) for field in zip(*(p._fields() for p in parts), strict=True)))

    def _fields(self) -> tuple[Tensor, ...]:
        return self.boxes, self.scores, self.classes, self.source, self.seen

    def __getitem__(self, kept: Tensor | slice) -> "MergedBoxes":
        return MergedBoxes(*(field[kept] for field in self._fields()))

    def __len__(self) -> int:
        return len(self.scores)


class BoxMerging(Protocol):
    """Function that merges the boxes of the views of an image."""

    def __call__(self, passes: ViewRunner) -> MergedBoxes:
        """Return the boxes of the image whose views ``passes`` runs, without masks."""
        ...


class UnionOfDetections:
    """Non-maximum suppression (NMS) of the detections of all views.

    This is the rule of Detectron2 (``GeneralizedRCNNWithTTA``) and Detectron. Arguments that are
    None have the values of the model. A single view is not suppressed again with its own threshold.

    Args:
        nms_threshold: Overlap above which the box with the lower score is removed.
        score_threshold: Value that scores must exceed, in addition to the model's own in each view.
        max_detections: Limit per image; negative for no limit.
        class_wise: Whether boxes only suppress boxes of the same class.
    """

    def __init__(
        self,
        *,
        nms_threshold: float | None = None,
        score_threshold: float | None = None,
        max_detections: int | None = None,
        class_wise: bool = True,
    ) -> None:
        self.nms_threshold = nms_threshold
        self.score_threshold = score_threshold
        self.max_detections = max_detections
        self.class_wise = class_wise

    def __call__(self, passes: ViewRunner) -> MergedBoxes:
        """Merge in one pass over the views."""
        model = passes.model
        found = passes.run(lambda _, inputs: model.inference(inputs, None, do_postprocess=False))
        union = MergedBoxes.cat([_in_frame(view, of_view) for view, of_view in found])
        if self.score_threshold is not None:
            union = union[union.scores > self.score_threshold]
        union = union[union.scores.argsort(descending=True, stable=True)]
        if len(passes.views) > 1 or self.nms_threshold is not None:
            union = union[self._survivors(union, _setting(model, "nms_thresh", self.nms_threshold))]
        limit = _setting(model, "topk_per_image", self.max_detections)
        return union if limit < 0 else union[: int(limit)]

    def _survivors(self, union: MergedBoxes, threshold: float) -> Tensor:
        # Shifting boxes by class suppresses all classes in one call. In float32 this would round
        # boxes of class 1,000 to an eighth of a pixel.
        boxes = union.boxes.double()
        if self.class_wise and len(union):
            boxes = boxes + (union.classes * (boxes.max() + 1))[:, None]
        return nms(boxes, union.scores.double(), threshold).sort().values


class MeanOverSharedProposals:
    """Mean boxes and scores over the views for shared proposals, followed by one NMS.

    This is the rule of mmdetection (``aug_test`` of two-stage detectors in version 2):

    1. the proposals of all views, in the frame, go through one NMS; the best are shared;
    2. the box heads, with all stages of a cascade, score and refine them in every view;
    3. clipped boxes ``(R, 4 C)`` and scores ``(R, C + 1)`` are averaged over the views;
    4. thresholds and class-wise NMS are applied as without augmentation.

    The views run twice. Heads that override the box part need the method ``box_predictions`` (see
    the function). Arguments that are None have the values of the model.

    Args:
        proposal_nms_threshold: Threshold of step 1.
        max_proposals: Number of proposals after step 1.
        nms_threshold, score_threshold, max_detections: Settings of step 4.
    """

    def __init__(
        self,
        *,
        proposal_nms_threshold: float | None = None,
        max_proposals: int | None = None,
        nms_threshold: float | None = None,
        score_threshold: float | None = None,
        max_detections: int | None = None,
    ) -> None:
        self.proposal_nms_threshold = proposal_nms_threshold
        self.max_proposals = max_proposals
        self.nms_threshold = nms_threshold
        self.score_threshold = score_threshold
        self.max_detections = max_detections

    def __call__(self, passes: ViewRunner) -> MergedBoxes:
        """Merge in two passes over the views."""
        model = passes.model
        boxes, scores = self._judge(passes, self._shared_proposals(passes))
        kept, _ = fast_rcnn_inference_single_image(
            boxes,
            scores,
            passes.views[0].frame,
            _setting(model, "score_thresh", self.score_threshold),
            _setting(model, "nms_thresh", self.nms_threshold),
            int(_setting(model, "topk_per_image", self.max_detections)),
        )
        return MergedBoxes(
            kept.pred_boxes.tensor,
            kept.scores,
            kept.pred_classes,
            torch.full_like(kept.pred_classes, -1),
            kept.pred_boxes.tensor,
        )

    def _shared_proposals(self, passes: ViewRunner) -> Tensor:
        """Return ``(R, 4)`` proposals in the frame, best first."""
        generator: Any = passes.model.proposal_generator

        def propose(_: list[View], inputs: list[dict[str, Any]]) -> list[Instances]:
            images = passes.model.preprocess_image(inputs)
            return generator(images, passes.model.backbone(images.tensor), None)[0]

        boxes, scores = [], []
        for view, found in passes.run(propose):
            boxes.append(_clipped(view.to_frame(found.proposal_boxes.tensor.float()), view.frame))
            scores.append(found.objectness_logits.float())
        shared, logits = torch.cat(boxes), torch.cat(scores)
        shared = shared[logits.argsort(descending=True, stable=True)]
        threshold, limit = self.proposal_nms_threshold, self.max_proposals
        if len(passes.views) > 1 or threshold is not None:
            threshold = generator.nms_thresh if threshold is None else threshold
            ranks = torch.arange(len(shared), 0, -1, device=shared.device)
            shared = shared[nms(shared.double(), ranks.double(), threshold).sort().values]
        return shared[: generator.post_nms_topk[False] if limit is None else limit]

    def _judge(self, passes: ViewRunner, proposals: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean boxes ``(R, 4)`` or ``(R, 4 C)`` in the frame and scores ``(R, C + 1)``."""
        model = passes.model

        def judge(views: list[View], inputs: list[dict[str, Any]]) -> list[tuple[Tensor, Tensor]]:
            given = [
                Instances(view.size, proposal_boxes=Boxes(view.to_view(proposals)))
                for view in views
            ]
            features = model.backbone(model.preprocess_image(inputs).tensor)
            return list(zip(*box_predictions(model.roi_heads, features, given), strict=True))

        totals: list[Tensor] = []
        for view, (boxes, scores) in passes.run(judge):
            added = [_clipped(view.to_frame(boxes.float()), view.frame), scores.float()]
            totals = [a + b for a, b in zip(totals, added, strict=True)] if totals else added
        mean_boxes, mean_scores = (total / len(passes.views) for total in totals)
        return mean_boxes, mean_scores


def _in_frame(view: View, found: Instances) -> MergedBoxes:
    seen = found.pred_boxes.tensor.float()
    return MergedBoxes(
        boxes=_clipped(view.to_frame(seen), view.frame),
        scores=found.scores.float(),
        classes=found.pred_classes,
        source=torch.full_like(found.pred_classes, view.number),
        seen=seen,
    )


def _clipped(boxes: Tensor, frame: Size) -> Tensor:
    inside = Boxes(boxes.reshape(-1, 4))
    inside.clip(frame)
    return inside.tensor.view(boxes.shape)


def _setting(model: Any, name: str, given: float | None) -> float:
    """Return ``given``, or the setting of the (last) box predictor if None."""
    if given is not None:
        return given
    predictor = getattr(model.roi_heads, "box_predictor", None)
    if isinstance(predictor, nn.ModuleList):
        predictor = predictor[-1]
    if not hasattr(predictor, f"test_{name}"):
        raise ValueError(
            f"{type(model.roi_heads).__name__} has no box_predictor.test_{name} to merge boxes by: "
            "give nms_threshold, score_threshold and max_detections"
        )
    return getattr(predictor, f"test_{name}")
