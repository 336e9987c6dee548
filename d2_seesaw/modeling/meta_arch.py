"""Meta-architectures: a second classification branch per stage, and images with verified negatives.

Detectron2 hands images, features, proposals and targets to the ROI heads. Targets have no room for
a fact about an image: fields of ``Instances`` have one row per object, so an image without objects,
where negatives matter most, could not carry any. Such facts belong to the images, which
:class:`FederatedRCNN` makes from its inputs in one place: ``preprocess_image``.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from detectron2.modeling.meta_arch import GeneralizedRCNN
from detectron2.modeling.roi_heads import CascadeROIHeads
from detectron2.structures import ImageList, Instances
from torch import Tensor, nn

from d2_seesaw.modeling.roi_heads.dual_head import DualBoxHead, DualOutputLayers

INITS = ("copy", "random")


class DualHeadRCNN(GeneralizedRCNN):
    """``GeneralizedRCNN`` with dual heads, whose old part is frozen.

    The last training of the LVIS 2020 entry (appendix D of arXiv 2008.10032); it is run with
    repeat factor sampling on a checkpoint of the model without the new branches. The box
    predictors are :class:`DualOutputLayers` or :class:`DualTSDOutputLayers`.

    Frozen means all: parameters do not ask for gradients, and every old module stays in evaluation
    mode, so that batch statistics and class counts stay too. RoIs are sampled as in training. There
    are no losses but those of the new branches, and what only other losses need is not run.

    It starts from the checkpoint of the step before, which lacks the ``added_keys``;
    :class:`~d2_seesaw.checkpoint.StrictCheckpointer` accepts these missing, all or none, and
    nothing else. Evaluation and resuming need all.

    Args:
        init: how new branches start, if the weights loaded have none: ``"copy"``, with those of the
            old ones, or ``"random"``.
        fresh_counts: whether the new losses start without what the old ones have counted.
        parts: the arguments of ``GeneralizedRCNN``.

    Raises:
        ValueError: an unknown ``init``, a box predictor with one branch, or with ``"copy"`` a new
            branch of another kind than the old one.
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
        """Keys of the state that the model of the step before does not have."""
        prefixes = tuple(f"{name}.new." for name in self._dual_parts())
        return frozenset(key for key in self.state_dict() if key.startswith(prefixes))

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """As the base class; new branches that ``state_dict`` lacks start as ``init`` says."""
        result = super().load_state_dict(state_dict, strict, assign)
        if not self.added_keys & state_dict.keys():
            self._start_new_branches()
        return result

    def train(self, mode: bool = True) -> "DualHeadRCNN":
        """Set the mode of the new branches; all else is in evaluation mode, but samples RoIs."""
        super().train(False)
        self.training = self.roi_heads.training = mode
        for part in self._dual_parts().values():
            part.new.train(mode)
        return self

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """Losses of the new branches in training, detections in inference.

        Args:
            batched_inputs: as for ``GeneralizedRCNN``; in training with ``instances``.

        Raises:
            ValueError: training inputs without ``instances``.
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
        # A cascade matches the RoIs of its later stages too.
        more = [targets] if isinstance(heads, CascadeROIHeads) else []
        return heads._forward_box(features, sampled, *more)

    def _boxes_and_classes(self, given: dict[str, Any]) -> Instances:
        # Without masks, which sampling would copy once for each RoI.
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
    """Let an RPN in evaluation mode keep what it would keep in training."""
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


class FederatedImageList(ImageList):
    """Images of a federated data set.

    Args:
        tensor: ``(N, 3, H, W)`` padded images.
        image_sizes: height and width of each before padding.
        negative_classes: of each, the classes that were verified to be absent.
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
    """``GeneralizedRCNN`` whose training images carry their verified negatives to the ROI heads.

    They come as ``negative_classes`` of each input, which ``register_longtail_instances`` gives to
    data with any ids. Without, they follow from ``neg_category_ids``, which Detectron2's loader of
    LVIS files reads. These are ids of the annotation file, which there run from 1 without gaps,
    while classes count from 0: class = id - 1, as that loader turns the ids of objects into
    classes.
    """

    def preprocess_image(self, batched_inputs: list[dict[str, Any]]) -> ImageList:
        """Normalise and pad the images; in training, add what is absent from them.

        Raises:
            ValueError: in training, an input without either, or a class or id out of range.
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
                f"negative_classes of {name} must lie in [0, {num_classes}), got {wrong[0]}"
            )
        return torch.tensor(classes, dtype=torch.int64)
    ids = image.get("neg_category_ids")
    if ids is None:
        raise ValueError(
            f"{name} has no neg_category_ids: a federated loss needs data in LVIS format, which "
            "says what was verified to be absent"
        )
    wrong = [i for i in ids if not 1 <= i <= num_classes]
    if wrong:
        raise ValueError(
            f"neg_category_ids of {name} must lie in [1, {num_classes}] (category ids run from 1), "
            f"got {wrong[0]}"
        )
    return torch.tensor(ids, dtype=torch.int64) - 1
