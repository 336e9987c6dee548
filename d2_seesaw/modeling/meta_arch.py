"""Meta-architectures: dual heads, padded masks, and images with verified negatives.

Detectron2 passes images, features, proposals and targets to the ROI heads. Targets cannot hold
per-image data: fields of ``Instances`` have one row per object, and negatives matter most in images
without objects. :class:`FederatedRCNN` therefore attaches such data to the images, in
``preprocess_image``.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.modeling.meta_arch import GeneralizedRCNN
from detectron2.structures import BitMasks, ImageList, Instances
from torch import Tensor, nn
from torch.nn import functional as F

from d2_seesaw.modeling.roi_heads.dual_head import DualBoxHead, DualOutputLayers
from d2_seesaw.modeling.roi_heads.fast_rcnn import FederatedImageSize
from d2_seesaw.modeling.second_phase import DecoupledRCNN, SecondPhaseRCNN

INITS = ("copy", "random")


class DualHeadRCNN(SecondPhaseRCNN):
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
        self._start_new_branches()
        self.freeze_others()

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

    def trained_modules(self) -> list[nn.Module]:
        """Return the new branches."""
        return [part.new for part in self._dual_parts().values()]

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

    The images have them as ``negative_classes``, for a :class:`GlobalContextEncoder`. The sizes of
    the images have them together with the classes of the objects, which are verified, too. Losses
    that ask for it, such as :class:`~d2_seesaw.losses.FederatedSeesawLoss`, get them for each RoI.

    The negatives are the ``negative_classes`` of each input, which ``register_longtail_instances``
    sets for data with any category ids, or else its ``neg_category_ids``, which Detectron2's LVIS
    loader sets. These are ids of an LVIS file, which run from 1 without gaps: class = id - 1, as
    that loader converts the ids of objects.
    """

    def preprocess_image(self, batched_inputs: list[dict[str, Any]]) -> ImageList:
        """Normalize and pad the images; in training, add their verified classes.

        Raises:
            ValueError: in training, an input has no negatives, or a class or id is out of range.
        """
        images = super().preprocess_image(batched_inputs)
        if not self.training:
            return images
        num_classes: Any = self.roi_heads.num_classes
        negatives = [_classes(x, num_classes).to(self.device) for x in batched_inputs]
        sizes = []
        for given, size, absent in zip(batched_inputs, images.image_sizes, negatives, strict=True):
            verified = torch.zeros(num_classes, dtype=torch.bool, device=self.device)
            verified.index_fill_(0, absent, True)
            if "instances" in given:
                verified.index_fill_(0, given["instances"].gt_classes.to(self.device), True)
            sizes.append(FederatedImageSize(size))
            sizes[-1].verified_classes = verified
        return FederatedImageList(images.tensor, sizes, negatives)


class FederatedDualHeadRCNN(FederatedRCNN, DualHeadRCNN):
    """:class:`DualHeadRCNN` whose new losses may ask for the classes verified in an image."""


class FederatedDecoupledRCNN(FederatedRCNN, DecoupledRCNN):
    """:class:`DecoupledRCNN` for losses that need the classes verified in an image."""


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
