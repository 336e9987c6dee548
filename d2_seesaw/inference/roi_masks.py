"""Models that leave masks on their boxes, for callers that need no masks of the whole image.

300 masks of 800 x 1333 pixels take 320 MB; the same masks on their boxes take 1 MB.
"""

from typing import Any

from detectron2.modeling.meta_arch import GeneralizedRCNN
from detectron2.structures import ROIMasks
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from d2_seesaw.inference.tta import MultiViewInference


class ROIMaskInference(nn.Module):
    """Wrapper of a detector in evaluation mode that returns masks as ``ROIMasks``.

    ``pred_masks`` are Detectron2's ``ROIMasks``, ``(N, M, M)`` probabilities on ``pred_boxes``,
    instead of ``(N, H, W)`` masks of the image. All other outputs are those of ``model``.

    Args:
        model: A ``GeneralizedRCNN`` with Detectron2's own inference, or ``MultiViewInference``,
            without a DDP wrapper.
    """

    def __init__(self, model: GeneralizedRCNN | MultiViewInference) -> None:
        super().__init__()
        self.model = model
        # Loops that switch to evaluation mode and back then restore the mode of the model.
        self.training = model.training

    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return what ``GeneralizedRCNN.forward`` returns in evaluation mode, except for masks."""
        results = self.model.inference(batched_inputs, do_postprocess=False)
        for found in results:
            if found.has("pred_masks"):
                # Detectron2 passes fields of unknown names through its postprocessing.
                found.set("roi_masks", ROIMasks(found.pred_masks[:, 0]))
                found.remove("pred_masks")
        sizes = [found.image_size for found in results]
        outputs = GeneralizedRCNN._postprocess(results, batched_inputs, sizes)
        for output in outputs:
            found = output["instances"]
            if found.has("roi_masks"):
                found.set("pred_masks", found.roi_masks)
                found.remove("roi_masks")
        return outputs


def with_roi_masks(model: nn.Module) -> nn.Module:
    """Wrap a model in :class:`ROIMaskInference`, or return it if its inference is not known.

    Args:
        model: Any model, with or without a DDP wrapper. Its weights and mode are not changed.
    """
    bare = model.module if isinstance(model, DistributedDataParallel) else model
    if isinstance(bare, MultiViewInference) or _infers_as_detectron2(bare):
        return ROIMaskInference(bare)
    return model


def _infers_as_detectron2(model: nn.Module) -> bool:
    steps = ("forward", "inference", "_postprocess")
    return isinstance(model, GeneralizedRCNN) and all(
        getattr(type(model), step) is getattr(GeneralizedRCNN, step) for step in steps
    )
