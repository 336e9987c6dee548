"""One pass of a model over images, from which all candidates of a calibration are scored.

Backbone and proposals are computed once. A calibration of scores is applied to the scores of all
classes of all RoIs before threshold and suppression, and only the detections are kept, so memory
does not grow with the number of classes. For the tau-normalized classifier, the box heads run once
per candidate on the same features.

Shapes in this module:
    R: labeled RoIs
    C: foreground classes
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.data import build_detection_test_loader
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.modeling.roi_heads.fast_rcnn import fast_rcnn_inference
from detectron2.structures import Boxes, BoxMode, Instances
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from d2_seesaw.data.bad_images import NamingMapper
from d2_seesaw.evaluation import Detections
from d2_seesaw.inference.calibration.attaching import attach_calibration, detach_calibration
from d2_seesaw.inference.calibration.splits import ABSENT, FittingSplit, Record, xywh
from d2_seesaw.inference.tta import evaluating, temporarily_disabled
from d2_seesaw.inference.tta.merging import box_predictions
from d2_seesaw.layers import Calibration, ScoreCalibration
from d2_seesaw.utils.progress import track


@dataclass(frozen=True)
class View:
    """One image as the model sees it.

    Attributes:
        place: place of the image in the split.
        record: the image in Detectron2's format.
        size: height and width of the results.
        features: feature maps by name.
        proposals: RoIs of the image.
    """

    place: int
    record: Record
    size: tuple[int, int]
    features: dict[str, Tensor]
    proposals: Instances


@torch.no_grad()
def views_of_split(
    model: Any, split: FittingSplit, mapper: Callable[[dict[str, Any]], Any], num_workers: int = 0
) -> Iterator[View]:
    """Yield features and proposals of each image, with the model in evaluation mode.

    Raises:
        BadImageError: an image cannot be read.
    """
    dataset = [dict(record) for record in split.records]
    build: Any = build_detection_test_loader  # configurable, which hides its signature
    loader = build(dataset, mapper=NamingMapper(mapper), num_workers=num_workers)
    shown = track(loader, "fitting", total=len(dataset), unit="image")
    with evaluating(model):
        for place, inputs in enumerate(shown):
            images = model.preprocess_image(inputs)
            features = model.backbone(images.tensor)
            (proposals,), _ = model.proposal_generator(images, features, None)
            size = inputs[0].get("height", 0), inputs[0].get("width", 0)
            yield View(place, split.records[place], size, features, proposals)


class CandidateDetections:
    """Collector of the detections that each candidate of a calibration gives.

    Args:
        model: detector without calibration.
        candidates: calibrations.
    """

    def __init__(self, model: Any, candidates: Sequence[Calibration]) -> None:
        self.model = model
        self.candidates = list(candidates)
        self._found: list[list[Detections]] = [[] for _ in self.candidates]

    @torch.no_grad()
    def add(self, view: View) -> None:
        """Detect on an image with every candidate."""
        plain: Any = None
        for candidate, found in zip(self.candidates, self._found, strict=True):
            if candidate.method == "tau-norm":
                attach_calibration(self.model, candidate)
                boxes, scores = self._predictions(view)
                detach_calibration(self.model)
            else:
                plain = plain or self._predictions(view)
                layer = ScoreCalibration(candidate).to(plain[1][0].device)
                boxes, scores = plain[0], [layer(image) for image in plain[1]]
            found.append(self._detections(view, boxes, scores))

    def _predictions(self, view: View) -> tuple[list[Tensor], list[Tensor]]:
        return box_predictions(self.model.roi_heads, view.features, [view.proposals])

    def _detections(self, view: View, boxes: list[Tensor], scores: list[Tensor]) -> Detections:
        predictor = self.model.roi_heads.box_predictor
        last: Any = predictor[-1] if isinstance(predictor, nn.ModuleList) else predictor
        (instances,), _ = fast_rcnn_inference(
            boxes,
            scores,
            [view.proposals.image_size],
            last.test_score_thresh,
            last.test_nms_thresh,
            last.test_topk_per_image,
        )
        instances = detector_postprocess(instances, *view.size).to("cpu")
        ids = {c: c + 1 for c in range(last.num_classes)}
        return Detections.from_instances(instances, view.place, ids)

    def detections(self) -> list[Detections]:
        """Return the detections of each candidate in all images."""
        return [Detections.concatenate(found) for found in self._found]


@dataclass(frozen=True)
class LabeledScores:
    """Scores of labeled RoIs.

    Attributes:
        scores: ``(R, C + 1)`` scores without calibration, background last.
        labels: ``(R,)`` class in ``[0, C)``, C for background.
        known: ``(R, C)`` whether the class was annotated in the image, or verified to be absent.
    """

    scores: Tensor
    labels: Tensor
    known: Tensor

    @classmethod
    def cat(cls, parts: "Sequence[LabeledScores]") -> "LabeledScores":
        """Concatenate the RoIs of all parts."""
        fields = ((p.scores, p.labels, p.known) for p in parts)
        return cls(*(torch.cat(columns) for columns in zip(*fields, strict=True)))


@torch.no_grad()
def labeled_scores(model: Any, view: View, *, max_rois: int, seed: int) -> LabeledScores:
    """Sample and label RoIs as in training, and score them.

    The ground-truth boxes are not among the RoIs. The test mapper must only resize.

    Args:
        model: detector without calibration.
        view: the image.
        max_rois: limit of the number of RoIs.
        seed: seed of the sampling, together with the place of the image.
    """
    heads: Any = model.roi_heads
    target = _target(view)
    number, heads.batch_size_per_image = (
        heads.batch_size_per_image,
        min(max_rois, heads.batch_size_per_image),
    )
    try:
        with (
            torch.random.fork_rng(),
            EventStorage(),
            temporarily_disabled(heads, "proposal_append_gt"),
        ):
            torch.manual_seed(seed + view.place)
            (sampled,) = heads.label_and_sample_proposals([view.proposals], [target])
    finally:
        heads.batch_size_per_image = number
    sampled = sampled[sampled.gt_classes >= 0]
    _, (scores,) = box_predictions(heads, view.features, [sampled])
    known = torch.ones(scores.shape[1] - 1, dtype=torch.bool)
    if ABSENT in view.record:
        known[:] = False
        known[view.record[ABSENT]] = True
        known[target.gt_classes.cpu()] = True
    return LabeledScores(
        scores.cpu(), sampled.gt_classes.cpu(), known.expand(len(scores), len(known))
    )


def _target(view: View) -> Instances:
    """Return boxes and classes of the objects in the coordinates of the model's input."""
    objects = [a for a in view.record["annotations"] if not a.get("iscrowd", 0)]
    device = view.proposals.proposal_boxes.device
    corners = [BoxMode.convert(xywh(a), BoxMode.XYWH_ABS, BoxMode.XYXY_ABS) for a in objects]
    boxes = Boxes(torch.tensor(corners, dtype=torch.float32, device=device).reshape(-1, 4))
    height, width = view.proposals.image_size
    boxes.scale(width / view.size[1], height / view.size[0])
    classes = torch.tensor([a["category_id"] for a in objects], dtype=torch.int64, device=device)
    return Instances(view.proposals.image_size, gt_boxes=boxes, gt_classes=classes)
