"""Seesaw Loss without objectness: for pixels, and for any classifier without a background class.

The paper's classification form (Wang et al., CVPR 2021, section 4.5 on ImageNet-LT): a softmax over
C classes. Shapes: see :mod:`d2_seesaw.losses.dense.base`.
"""

import torch
from torch import Tensor

from d2_seesaw.losses._first_pass import once
from d2_seesaw.losses.dense.base import CHUNK_SIZE, DenseLoss
from d2_seesaw.losses.seesaw import check_hyper_parameters, seesaw_losses


class SeesawCrossEntropyLoss(DenseLoss):
    """Mean Seesaw cross-entropy over all pixels that are not ignored.

    Counts the pixels of each class in ``class_counts``, an integer buffer of length C that is saved
    with the model and changes in training steps only. Counts are int64 and cannot overflow in
    practice. For detection, where background has its own logit, use
    :class:`~d2_seesaw.losses.SeesawLoss`.

    Args:
        num_classes: C.
        p: strength of the mitigation factor.
        q: strength of the compensation factor. The paper uses 2 for detection and finds 1 best for
            classification.
        eps: lower bound of the true class's probability in the compensation factor, in ``(0, 1]``.
        ignore_index: label of pixels to ignore; not one of the classes.
        chunk_size: pixels to process at a time, which bounds the memory and does not change the
            result. None for all is slower on a CPU, faster on a GPU, and takes a little more memory
            than cross-entropy.
        sample_size: valid pixels to draw at random on each rank, which saves time and memory and
            gives an unbiased estimate. All valid pixels are counted. None for all.
        loss_weight: factor on the loss.
        sync: sum counts over the ranks, see :class:`~d2_seesaw.losses.DenseLoss`.

    Raises:
        ValueError: a hyper-parameter is out of range.
    """

    class_counts: Tensor
    options = ("p", "q", "eps", "sample_size")

    def __init__(
        self,
        num_classes: int,
        *,
        p: float = 0.8,
        q: float = 2.0,
        eps: float = 1e-2,
        ignore_index: int = 255,
        chunk_size: int | None = CHUNK_SIZE,
        sample_size: int | None = None,
        loss_weight: float = 1.0,
        sync: bool = True,
    ) -> None:
        super().__init__(
            num_classes,
            ignore_index=ignore_index,
            chunk_size=chunk_size,
            loss_weight=loss_weight,
            sync=sync,
        )
        check_hyper_parameters(p, q, eps)
        if sample_size is not None and sample_size < 1:
            raise ValueError(f"sample_size must be at least 1 or None, got {sample_size}")
        self.p = p
        self.q = q
        self.eps = eps
        self.sample_size = sample_size
        self.register_buffer("class_counts", torch.zeros(num_classes, dtype=torch.int64))

    def update(self, counts: Tensor) -> None:
        """Add the pixels of the batch to the class counts."""
        self.class_counts += counts

    def weigh(self, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Return the class counts, and the number of valid pixels as the normalizer."""
        return self.class_counts, counts.sum()

    def select(
        self, logits: Tensor, labels: Tensor, is_valid: Tensor
    ) -> tuple[Tensor, Tensor, float | Tensor]:
        """Draw ``(S, C)`` logits and ``(S,)`` labels if there is a ``sample_size``."""
        if self.sample_size is None:
            return logits, labels, 1.0
        if torch.compiler.is_compiling():
            drawn, fraction = self._draw_in_graph(is_valid.flatten())
        else:
            valid = is_valid.flatten().nonzero().squeeze(1)
            drawn = valid[torch.randperm(len(valid), device=valid.device)[: self.sample_size]]
            # Drawn again in a recomputation, which may use other random numbers.
            (drawn,) = once(self, lambda _: (drawn,))
            fraction = len(drawn) / max(len(valid), 1) or 1.0
        pixels_per_image = max(labels.shape[1:].numel(), 1)
        image, pixel = drawn // pixels_per_image, drawn % pixels_per_image
        columns = logits.unsqueeze(2) if logits.dim() == 2 else logits.flatten(2)
        return columns[image, :, pixel], labels.flatten()[drawn], fraction

    def _draw_in_graph(self, is_valid: Tensor) -> tuple[Tensor, Tensor]:
        """Draw a fixed number of pixels, ignored ones last; return them and their fraction."""
        size = min(self.sample_size or 0, is_valid.numel())
        keys = torch.rand(is_valid.shape, device=is_valid.device).masked_fill(~is_valid, -1)
        valid = is_valid.sum()
        return keys.topk(size).indices, valid.clamp(1, max(size, 1)).double() / valid.clamp(min=1)

    def loss_sum(self, logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        """Sum the Seesaw cross-entropy over the pixels that are not ignored."""
        options = (self.p, self.q, self.eps)
        return seesaw_losses(logits, labels, weights, *options, ignored=self.ignore_index).sum()
