"""Meta-architectures: dual heads, padded masks, and images with verified negatives.

Detectron2 passes images, features, proposals and targets to the ROI heads. Targets cannot hold
per-image data: fields of ``Instances`` have one row per object, and negatives matter most in images
without objects. :class:`FederatedRCNN` therefore attaches such data to the images, in
``preprocess_image``.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from detectron2.modeling.meta_arch import GeneralizedRCNN
from detectron2.modeling.roi_heads import CascadeROIHeads
from detectron2.structures import BitMasks, ImageList, Instances
from torch import Tensor, nn
from torch.nn import functional as F

from d2_seesaw.modeling.roi_heads.dual_head import DualBoxHead, DualOutputLayers

INITS = ("copy", "random")


class DualHeadRCNN(GeneralizedRCNN):
    """``GeneralizedRCNN`` with dual heads, which trains only their new branches.

    The last training step of the LVIS 2020 entry (appendix D of arXiv 2008.10032). It runs with
    repeat factor sampling, on a checkpoint of the model without the new branches. The box
    predictors are :class:`DualOutputLayers` or :class:`DualTSDOutputLayers`.

    Everything else is frozen: its parameters require no gradients, and it stays in evaluation mode,
    so that batch statistics and class counts do not change. RoIs are sampled as in training. The
    only losses are those of the new branches, and modules that only other losses need do not run.

    The checkpoint of the previous step lacks the ``added_keys``.
    :class:`~d2_seesaw.checkpoint.StrictCheckpointer` accepts a checkpoint that lacks all of them,
    and no other missing keys. Evaluation and resuming need all keys.

    Args:
        init: initialization of new branches that the loaded weights do not contain: ``"copy"`` of
            the old branches, or ``"random"``.
        fresh_counts: start the class counts of the new losses at zero instead of copying them.
        parts: arguments of ``GeneralizedRCNN``.

    Raises:
        ValueError: ``init`` is unknown, a box predictor has one branch, or with ``"copy"`` a new
            branch differs in kind from the old one.
    """

    def __init__(self, *, init: str = "copy", fresh_counts: bool = True, **parts: Any) -> None:
        super().__init__(**parts)
        if init not in INITS:
            raise ValueError(f"init must be one of {list(INITS)}, got {init!r}")
        _check_predictors(self.roi_heads.box_predictor)
        self.init = init
        self.fresh_counts = fresh_counts
        self.requires_grad_(False)
        for part in self._dual_parts().values():
            part.new.requires_grad_(True)
        self._start_new_branches()
        self.train()

    @property
    def added_keys(self) -> frozenset[str]:
        """State dict keys that the model of the previous step does not have."""
        prefixes = tuple(f"{name}.new." for name in self._dual_parts())
        return frozenset(key for key in self.state_dict() if key.startswith(prefixes))

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load a state dict; initialize the new branches by ``init`` if it lacks them."""
        result = super().load_state_dict(state_dict, strict, assign)
        if not self.added_keys & state_dict.keys():
            self._start_new_branches()
        return result

    def train(self, mode: bool = True) -> "DualHeadRCNN":
        """Set the mode of the new branches; other modules stay in evaluation mode."""
        super().train(False)
        self.training = self.roi_heads.training = mode
        for part in self._dual_parts().values():
            part.new.train(mode)
        return self

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """Return losses of the new branches in training, detections in inference.

        Args:
            batched_inputs: as for ``GeneralizedRCNN``; in training with ``instances``.

        Raises:
            ValueError: training inputs lack ``instances``.
        """
        if not self.training:
            return self.inference(batched_inputs)
        targets = [self._boxes_and_classes(given) for given in batched_inputs]
        with torch.no_grad(), _as_many_proposals_as_in_training(self.proposal_generator):
            images = self.preprocess_image(batched_inputs)
            features = self.backbone(images.tensor)
            proposals, _ = self.proposal_generator(images, features, None)
        return self._box_losses(features, proposals, targets)

    def _box_losses(
        self, features: dict[str, Tensor], proposals: list[Instances], targets: list[Instances]
    ) -> dict[str, Tensor]:
        heads: Any = self.roi_heads
        sampled = heads.label_and_sample_proposals(proposals, targets)
        # A cascade also matches the RoIs of its later stages.
        more = [targets] if isinstance(heads, CascadeROIHeads) else []
        return heads._forward_box(features, sampled, *more)

    def _boxes_and_classes(self, given: dict[str, Any]) -> Instances:
        # Without masks, which sampling would copy for each RoI.
        if "instances" not in given:
            raise ValueError("training needs targets: the inputs have no 'instances'")
        objects = given["instances"].to(self.device)
        return Instances(
            objects.image_size, gt_boxes=objects.gt_boxes, gt_classes=objects.gt_classes
        )

    def _dual_parts(self) -> dict[str, Any]:
        kinds = (DualBoxHead, DualOutputLayers)
        return {name: part for name, part in self.named_modules() if isinstance(part, kinds)}

    @torch.no_grad()
    def _start_new_branches(self) -> None:
        for part in self._dual_parts().values():
            part.start_new(copy_weights=self.init == "copy", copy_counts=not self.fresh_counts)


def _check_predictors(predictors: Any) -> None:
    for predictor in predictors if isinstance(predictors, nn.ModuleList) else [predictors]:
        if not isinstance(predictor, DualOutputLayers):
            raise ValueError(
                "every box predictor must be DualOutputLayers or DualTSDOutputLayers, which have "
                f"a second classification branch; got {type(predictor).__name__}"
            )


@contextmanager
def _as_many_proposals_as_in_training(generator: Any) -> Iterator[None]:
    """Let an RPN in evaluation mode keep as many proposals as in training."""
    limits = {
        name: getattr(generator, name)
        for name in ("pre_nms_topk", "post_nms_topk")
        if hasattr(generator, name)
    }
    try:
        for name, limit in limits.items():
            setattr(generator, name, {False: limit[True]})
        yield
    finally:
        for name, limit in limits.items():
            setattr(generator, name, limit)


class PaddedMaskRCNN(GeneralizedRCNN):
    """``GeneralizedRCNN`` that pads the masks of training images like the images, as in mmdet.

    Bitmasks are then interpolated with zeros beyond the right and the lower border of their image.
    Without padding, Detectron2 repeats the pixels of the border.
    """

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """Return losses in training, detections in inference; see ``GeneralizedRCNN``."""
        if self.training and all("instances" in given for given in batched_inputs):
            batched_inputs = _with_padded_masks(batched_inputs, self.backbone.size_divisibility)
        return super().forward(batched_inputs)


def _with_padded_masks(batched_inputs: list[dict[str, Any]], divisor: int) -> list[dict[str, Any]]:
    sizes = [x["image"].shape[-2:] for x in batched_inputs]
    height, width = (math.ceil(max(size) / divisor) * divisor for size in zip(*sizes, strict=True))
    padded = []
    for x, (h, w) in zip(batched_inputs, sizes, strict=True):
        objects = x["instances"]
        fields = objects.get_fields().copy()
        if isinstance(masks := fields.get("gt_masks"), BitMasks):
            fields["gt_masks"] = BitMasks(F.pad(masks.tensor, (0, width - w, 0, height - h)))
        padded.append({**x, "instances": Instances(objects.image_size, **fields)})
    return padded


class FederatedImageList(ImageList):
    """Images of a federated dataset.

    Args:
        tensor: ``(N, 3, H, W)`` padded images.
        image_sizes: height and width of each image before padding.
        negative_classes: for each image, the classes that were verified to be absent.
    """

    def __init__(
        self,
        tensor: Tensor,
        image_sizes: list[tuple[int, int]],
        negative_classes: Sequence[Tensor],
    ) -> None:
        super().__init__(tensor, image_sizes)
        self.negative_classes = list(negative_classes)


class FederatedRCNN(GeneralizedRCNN):
    """``GeneralizedRCNN`` that passes the verified negatives of training images to the ROI heads.

    They are the ``negative_classes`` of each input, which ``register_longtail_instances`` sets for
    data with any category ids, or else its ``neg_category_ids``, which Detectron2's LVIS loader
    sets. These are ids of an LVIS file, which run from 1 without gaps: class = id - 1, as that
    loader converts the ids of objects.
    """

    def preprocess_image(self, batched_inputs: list[dict[str, Any]]) -> ImageList:
        """Normalize and pad the images; in training, add their verified negatives.

        Raises:
            ValueError: in training, an input has no negatives, or a class or id is out of range.
        """
        images = super().preprocess_image(batched_inputs)
        if not self.training:
            return images
        num_classes: Any = self.roi_heads.num_classes
        negatives = [_classes(x, num_classes).to(self.device) for x in batched_inputs]
        return FederatedImageList(images.tensor, images.image_sizes, negatives)


def _classes(image: dict[str, Any], num_classes: int) -> Tensor:
    name = image.get("file_name", "an image")
    if "negative_classes" in image:
        classes = image["negative_classes"]
        wrong = [c for c in classes if not 0 <= c < num_classes]
        if wrong:
            raise ValueError(
                f"negative_classes of {name} must be in [0, {num_classes}), got {wrong[0]}"
            )
        return torch.tensor(classes, dtype=torch.int64)
    ids = image.get("neg_category_ids")
    if ids is None:
        raise ValueError(
            f"{name} has no neg_category_ids: a federated loss needs data in LVIS format, which "
            "lists the categories that were verified to be absent"
        )
    wrong = [i for i in ids if not 1 <= i <= num_classes]
    if wrong:
        raise ValueError(
            f"neg_category_ids of {name} must be in [1, {num_classes}] (category ids run from 1), "
            f"got {wrong[0]}"
        )
    return torch.tensor(ids, dtype=torch.int64) - 1
