"""Test-time augmentation: inference on several views of each image.

Shapes in this module:
    N: detections
    M: edge of a mask on its box
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

import torch
from detectron2.modeling.meta_arch import GeneralizedRCNN
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from d2_seesaw.inference.tta.merging import BoxMerging, MergedBoxes, UnionOfDetections
from d2_seesaw.inference.tta.views import (
    DTYPES,
    View,
    ViewRunner,
    check_scales,
    original_image,
    views_of,
)


@contextmanager
def temporarily_disabled(module: nn.Module, *flags: str) -> Iterator[None]:
    """Set the ``flags`` that ``module`` has to False and restore them afterwards."""
    found = {flag: getattr(module, flag) for flag in flags if hasattr(module, flag)}
    try:
        for flag in found:
            setattr(module, flag, False)
        yield
    finally:
        for flag, value in found.items():
            setattr(module, flag, value)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Set ``model`` to evaluation mode and restore the mode of each of its modules afterwards."""
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        yield
    finally:
        for module, training in modes.items():
            module.training = training


class MultiViewInference(nn.Module):
    """Test-time augmentation of a ``GeneralizedRCNN``, with the same call signature.

    Views are made from the original image by resizing and mirroring (see
    :func:`~d2_seesaw.inference.tta.views.original_image`). ``merge`` merges their boxes. The mask
    head then runs on the merged boxes in every view. Its probabilities, mirrored back, are
    averaged, and so are all other outputs of the heads per box. Heads that use the whole image,
    such as a context encoder, treat each view as a separate image.

    Memory does not grow with the number of views: they run one batch after the other, and their
    features are computed again for the masks. A model without masks runs once per view, a model
    with masks twice; ``MeanOverSharedProposals`` adds one run.

    Results do not depend on the order of ``scales``. One scale without flip gives exactly the
    results of the model on an image resized to that scale.

    Args:
        model: Model, with or without a DDP wrapper. Its state is restored after every call, even
            after an exception.
        scales: Pairs of a short edge and the limit of the long edge in pixels. ``(s, s)``, or just
            ``s``, makes the long edge ``s``.
        flip: Whether to add the mirror image of every view.
        merge: Merging of the boxes of the views; ``UnionOfDetections()`` by default.
        batch_size: Views per forward pass, padded to the largest. With ``flip``, 2 runs a view
            together with its mirror image, without padding.
        amp_dtype: ``"float16"``, ``"bfloat16"``, or None for no autocast.
        image_format: Channel order of files to read; ``input_format`` of the model if None.

    Raises:
        ValueError: the model is not a ``GeneralizedRCNN``, takes its proposals as inputs or
            predicts keypoints, or a scale, the batch size or the dtype is invalid.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        scales: Iterable[int | Sequence[int]],
        flip: bool = True,
        merge: BoxMerging | None = None,
        batch_size: int = 1,
        amp_dtype: str | None = None,
        image_format: str | None = None,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if amp_dtype is not None and amp_dtype not in DTYPES:
            raise ValueError(f"amp_dtype must be one of {sorted(DTYPES)}, got {amp_dtype!r}")
        self.model = _checked(model)
        self.scales = check_scales(scales)
        self.flip = flip
        self.merge = merge or UnionOfDetections()
        self.batch_size = batch_size
        self.amp_dtype = DTYPES[amp_dtype] if amp_dtype else None
        self.image_format = image_format

    @torch.no_grad()
    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Instances]]:
        """Predict as ``GeneralizedRCNN.forward`` does in evaluation mode, in any mode.

        Args:
            batched_inputs: One dict per image, with the image as ``original_image``, ``image`` or
                ``file_name``. Predictions have the size ``height`` and ``width``.

        Returns:
            One ``{"instances": ...}`` per image with ``pred_boxes``, ``scores`` and
            ``pred_classes``. Models with masks or mask scores add ``pred_masks`` and
            ``mask_scores``: the merged score times the mean of the IoUs predicted in the views.
        """
        results = self.inference(batched_inputs)
        return [{"instances": detector_postprocess(r, *r.image_size)} for r in results]

    @torch.no_grad()
    def inference(
        self, batched_inputs: list[dict[str, Any]], *, do_postprocess: Literal[False] = False
    ) -> list[Instances]:
        """Predict with masks on boxes, like ``inference`` of the model.

        Args:
            batched_inputs: See ``forward``.
            do_postprocess: Always False, as in a call of the model; ``forward`` postprocesses.

        Returns:
            Instances of each image as from ``forward``, but ``pred_masks`` are ``(N, 1, M, M)``
            probabilities, and boxes may be empty.
        """
        with evaluating(self.model):
            return [self._detect(given) for given in batched_inputs]

    def _detect(self, given: dict[str, Any]) -> Instances:
        image, frame = original_image(given, self.image_format or self.model.input_format)
        views = views_of(image.shape[:2], frame, self.scales, flip=self.flip)
        passes = ViewRunner(self.model, image, views, self.batch_size, self.amp_dtype)
        heads = self.model.roi_heads
        with temporarily_disabled(heads, "mask_on"):
            merged = self.merge(passes)
        result = Instances(
            frame,
            pred_boxes=Boxes(merged.boxes),
            scores=merged.scores,
            pred_classes=merged.classes,
        )
        if getattr(heads, "mask_on", False):
            for name, mean in _mean_outputs(passes, merged).items():
                result.set(name, mean)
        return result


def _checked(model: nn.Module) -> GeneralizedRCNN:
    if isinstance(model, DistributedDataParallel):
        model = model.module
    if not isinstance(model, GeneralizedRCNN):
        raise ValueError(f"model must be a GeneralizedRCNN, got {type(model).__name__}")
    if model.proposal_generator is None:
        raise ValueError("the model has no proposal_generator: proposals as inputs have no views")
    if getattr(model.roi_heads, "keypoint_on", False):
        raise ValueError("the model predicts keypoints, which are not merged over views")
    return model


def _mean_outputs(passes: ViewRunner, merged: MergedBoxes) -> dict[str, Tensor]:
    """Average what the heads add to the merged boxes over the views: masks ``(N, 1, M, M)``."""
    if not len(merged):  # one small view gives the names and shapes
        passes = replace(passes, views=passes.views[:1])

    def look(views: list[View], inputs: list[dict[str, Any]]) -> list[Instances]:
        boxes = [
            Instances(
                view.size,
                pred_boxes=Boxes(merged.in_view(view)),
                pred_classes=merged.classes,
                scores=merged.scores,
            )
            for view in views
        ]
        return passes.model.inference(inputs, boxes, do_postprocess=False)

    totals: dict[str, Tensor] = {}
    for view, found in passes.run(look):
        added = found.get_fields().keys() - {"pred_boxes", "pred_classes", "scores"}
        for name in added:
            value = found.get(name).float()
            value = view.unmirror(value) if name == "pred_masks" else value
            totals[name] = totals[name] + value if name in totals else value
    return {name: total / len(passes.views) for name, total in totals.items()}
