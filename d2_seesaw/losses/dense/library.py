"""Dice, Lovasz and focal loss of segmentation-models-pytorch with the interface of our losses.

The library computes them; here are the ignored label for all cases, float32 under autocast, checks
of the batch, and a differentiable zero where every pixel is ignored. They have no state. On several
GPUs each computes the loss of its own pixels, and DDP averages the gradients.

Shapes: N images or samples, C classes, P pixels that are not ignored; see
:mod:`d2_seesaw.losses.dense.base`.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from d2_seesaw.losses._common import full_precision
from d2_seesaw.losses.dense.base import check_batch, check_ignored


class _LibraryLoss(nn.Module):
    """Base class of the losses that segmentation-models-pytorch computes.

    Args:
        num_classes: C.
        ignore_index: label of pixels to ignore; not one of the classes.
        loss_weight: factor on the loss.
        options: hyper-parameters for the library's loss.
    """

    options: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self, num_classes: int, *, ignore_index: int, loss_weight: float, **options: Any
    ) -> None:
        super().__init__()
        check_ignored(num_classes, ignore_index)
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.loss_weight = loss_weight
        self.loss = self._library_class()(mode="multiclass", **options)

    def _library_class(self) -> Any:
        name = type(self).__name__
        try:
            import segmentation_models_pytorch
        except ImportError as error:
            raise ImportError(
                f"{name} needs segmentation-models-pytorch: pip install segmentation-models-pytorch"
            ) from error
        return getattr(segmentation_models_pytorch.losses, name)

    def extra_repr(self) -> str:
        """Return the hyper-parameters for ``print(model)``."""
        names = ("num_classes", *self.options, "ignore_index", "loss_weight")
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in names)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Compute the loss.

        Args:
            logits: ``(N, C)`` or ``(N, C, ...)`` of any floating dtype.
            labels: ``(N,)`` or ``(N, ...)`` integers in ``[0, C)`` or ``ignore_index``.

        Returns:
            A scalar in float32, or float64 for float64 logits. A differentiable zero if every pixel
            is ignored.

        Raises:
            ValueError: shapes or labels are invalid.
        """
        labels, is_valid = check_batch(logits, labels, self.num_classes, self.ignore_index)
        with torch.autocast(logits.device.type, enabled=False):
            return self.loss_weight * self._compute(full_precision(logits), labels, is_valid)

    def _compute(self, logits: Tensor, labels: Tensor, is_valid: Tensor) -> Tensor:
        """Compute the loss of the pixels that are not ignored; synchronizes with a GPU."""
        pixels = logits.movedim(1, -1)[is_valid]  # (P, C)
        return self.loss(pixels, labels[is_valid]) if len(pixels) else pixels.sum()


class DiceLoss(_LibraryLoss):
    r"""Soft Dice loss (Milletari et al., 3DV 2016) over the pixels of the whole batch.

    .. math::
        L = \frac1C \sum_{c \text{ occurs}}
            \left(1 - \frac{2 \sum_n p_{nc} y_{nc} + 2s}{\sum_n p_{nc} + \sum_n y_{nc} + 2s}\right)

    with softmax probabilities p and one-hot labels y. Classes without pixels in the batch
    contribute 0, so that only the softmax pushes them down.

    Args:
        num_classes: C.
        ignore_index: label of pixels to ignore; not one of the classes.
        smooth: s, at least 0.
        log_loss: use the negative logarithm of the Dice coefficient instead of 1 minus it.
        loss_weight: factor on the loss.

    Raises:
        ValueError: a hyper-parameter is out of range.
        ImportError: segmentation-models-pytorch is not installed.
    """

    options = ("smooth", "log_loss")

    def __init__(
        self,
        num_classes: int,
        *,
        ignore_index: int = 255,
        smooth: float = 0.0,
        log_loss: bool = False,
        loss_weight: float = 1.0,
    ) -> None:
        if not smooth >= 0:
            raise ValueError(f"smooth must be 0 or more, got {smooth}")
        super().__init__(
            num_classes,
            ignore_index=ignore_index,
            loss_weight=loss_weight,
            smooth=smooth,
            log_loss=log_loss,
        )
        self.smooth = smooth
        self.log_loss = log_loss
        self.loss.ignore_index = ignore_index

    def _compute(self, logits: Tensor, labels: Tensor, is_valid: Tensor) -> Tensor:
        """Compute the loss without a synchronization: the library masks the ignored pixels."""
        if labels.numel() == 0:
            return logits.sum()
        columns = logits.unsqueeze(2) if logits.dim() == 2 else logits.flatten(2)
        return self.loss(columns, labels.view(len(labels), -1))


class LovaszLoss(_LibraryLoss):
    r"""Lovasz-Softmax (Berman et al., CVPR 2018), a surrogate of 1 minus the mean IoU.

    .. math::
        L = \frac{1}{|\{c \text{ occurs}\}|} \sum_{c \text{ occurs}} \overline{\Delta_{J_c}}(m(c)),
        \quad m_n(c) = |y_{nc} - p_{nc}|

    with softmax probabilities p, one-hot labels y and the Lovasz extension of the Jaccard loss.
    The library computes it in float32, for float64 logits, too.

    Args:
        num_classes: C.
        ignore_index: label of pixels to ignore; not one of the classes.
        per_image: compute the loss of each image and average; 0 for an image without valid pixels.
            By default it is that of all pixels of the batch.
        loss_weight: factor on the loss.

    Raises:
        ValueError: a hyper-parameter is out of range.
        ImportError: segmentation-models-pytorch is not installed.
    """

    options = ("per_image",)

    def __init__(
        self,
        num_classes: int,
        *,
        ignore_index: int = 255,
        per_image: bool = False,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__(num_classes, ignore_index=ignore_index, loss_weight=loss_weight)
        if num_classes < 2:
            raise ValueError(f"Lovasz-Softmax needs at least 2 classes, got {num_classes}")
        self.per_image = per_image

    def _compute(self, logits: Tensor, labels: Tensor, is_valid: Tensor) -> Tensor:
        """Compute the loss of the batch or the mean over its images; synchronizes with a GPU."""
        logits = logits.float()
        if not self.per_image or len(logits) == 0:
            return super()._compute(logits, labels, is_valid)
        images = zip(logits.split(1), labels.split(1), is_valid.split(1), strict=True)
        return torch.stack([super(LovaszLoss, self)._compute(*image) for image in images]).mean()


class FocalLoss(_LibraryLoss):
    r"""Focal loss (Lin et al., ICCV 2017): one binary classification per class, with a sigmoid.

    .. math::
        L = \frac{1}{PC} \sum_n \sum_c -\alpha_t (1 - p_t)^\gamma \log p_t

    with :math:`p_t` the probability :math:`\sigma(x_{nc})` if n is of class c, and 1 minus it
    otherwise, and :math:`\alpha_t` likewise, or 1 without ``alpha``. The ranking of the logits, and
    with it the prediction, is that of a softmax.

    Args:
        num_classes: C.
        ignore_index: label of pixels to ignore; not one of the classes.
        gamma: exponent, at least 0; 0 gives binary cross-entropy.
        alpha: weight of the true class, in ``[0, 1]``; the others have 1 minus it. None is off.
        loss_weight: factor on the loss.

    Raises:
        ValueError: a hyper-parameter is out of range.
        ImportError: segmentation-models-pytorch is not installed.
    """

    options = ("gamma", "alpha")

    def __init__(
        self,
        num_classes: int,
        *,
        ignore_index: int = 255,
        gamma: float = 2.0,
        alpha: float | None = None,
        loss_weight: float = 1.0,
    ) -> None:
        if not gamma >= 0:
            raise ValueError(f"gamma must be 0 or more, got {gamma}")
        if alpha is not None and not 0 <= alpha <= 1:
            raise ValueError(f"alpha must be in [0, 1] or None, got {alpha}")
        super().__init__(
            num_classes,
            ignore_index=ignore_index,
            loss_weight=loss_weight,
            gamma=gamma,
            alpha=alpha,
        )
        self.gamma = gamma
        self.alpha = alpha
