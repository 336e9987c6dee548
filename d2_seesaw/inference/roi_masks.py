"""Models whose masks stay on their boxes, for those who need no masks of the whole image.

Pasted into images of their own, 300 masks of 800 x 1333 pixels are 320 MB; on their boxes, 1 MB.
"""

from typing import Any

from detectron2.modeling.meta_arch import GeneralizedRCNN
from detectron2.structures import ROIMasks
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from d2_seesaw.inference.tta import MultiViewInference


class ROIMaskInference(nn.Module):
    """A detector that answers as it does in evaluation mode, but with ``ROIMasks``.

    ``pred_masks`` are Detectron2's ``ROIMasks``, ``(N, M, M)`` probabilities on ``pred_boxes``,
    instead of ``(N, H, W)`` masks of the image. All else is what ``model`` answers.

    Args:
        model: a ``GeneralizedRCNN`` with Detectron2's own inference, or ``MultiViewInference``;
            without a DDP wrapper.
    """

    def __init__(self, model: GeneralizedRCNN | MultiViewInference) -> None:
        super().__init__()
        self.model = model
        # A loop that puts this into evaluation mode and back leaves the model as it was.
        self.training = model.training

    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """As ``GeneralizedRCNN.forward`` in evaluation mode, but for the masks."""
        results = self.model.inference(batched_inputs, do_postprocess=False)
        for found in results:
            if found.has("pred_masks"):
                # Under another name, the host treats them as any field that it does not know.
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
    """``model`` as :class:`ROIMaskInference`, or itself if that does not know how it infers.

    Args:
        model: any, maybe wrapped in DDP. Its weights and its mode are left alone.
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
