"""Seesaw Loss without objectness: for pixels, and for any classifier without a background.

The paper's classification form (Wang et al., CVPR 2021, section 4.5 on ImageNet-LT): a softmax over
C classes and nothing else. Shapes: N images or samples, C classes, "..." is H x W or nothing.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2_seesaw.losses._common import (
    check_dense_batch,
    check_ignore_index,
    count_labels,
    full_precision,
    is_training_step,
    sum_over_ranks,
)
from d2_seesaw.losses.dense import CHUNK_SIZE, check_chunk_size, sum_in_chunks
from d2_seesaw.losses.seesaw import check_hyper_parameters, seesaw_logits


class SeesawCrossEntropyLoss(nn.Module):
    """Mean Seesaw cross-entropy over all pixels, or samples, that are not ignored.

    Counts what it has been given in ``class_counts``, an integer buffer of length C that is saved
    with the model and changes in training steps only. Counts are exact up to 2^63, so pixels may be
    counted for years. For detection, where background has its own logit, there is
    :class:`~d2_seesaw.losses.SeesawLoss`.

    Pixels are weighed ``chunk_size`` at a time, which bounds the memory and gives the same result.
    ``sample_size`` saves more of both and gives an unbiased estimate.

    Args:
        num_classes: C.
        p: strength of the mitigation factor.
        q: strength of the compensation factor. The paper has 2 for detection and finds 1 best for
            classification.
        eps: floor of the true class's probability in the compensation factor, in ``(0, 1]``.
        ignore_index: the label of pixels that take no part; not one of the classes.
        chunk_size: pixels to weigh at a time; None for all, which is slower on a CPU, faster on a
            GPU, and takes a little more memory than cross-entropy.
        sample_size: pixels to draw at random, on each rank, from those that are not ignored, all
            of which are counted; None for all.
        loss_weight: factor on the loss.
        sync: in a training step, sum counts and pixels over the ranks, so that counts, loss and
            (averaged) gradients equal those of one process on the whole batch. All ranks must then
            call the loss equally often.

    Raises:
        ValueError: a hyper-parameter out of range.
    """

    class_counts: Tensor

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
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        check_ignore_index(ignore_index, num_classes)
        check_hyper_parameters(p, q, eps)
        check_chunk_size(chunk_size)
        if sample_size is not None and sample_size < 1:
            raise ValueError(f"sample_size must be at least 1 or None, got {sample_size}")
        self.num_classes = num_classes
        self.p = p
        self.q = q
        self.eps = eps
        self.ignore_index = ignore_index
        self.chunk_size = chunk_size
        self.sample_size = sample_size
        self.loss_weight = loss_weight
        self.sync = sync
        self.register_buffer("class_counts", torch.zeros(num_classes, dtype=torch.int64))

    def extra_repr(self) -> str:
        """Hyper-parameters, for ``print(model)``."""
        return (
            f"num_classes={self.num_classes}, p={self.p}, q={self.q}, eps={self.eps}, "
            f"ignore_index={self.ignore_index}, chunk_size={self.chunk_size}, "
            f"sample_size={self.sample_size}, loss_weight={self.loss_weight}, sync={self.sync}"
        )

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Count the batch, then compare it with its labels.

        Args:
            logits: ``(N, C)`` or ``(N, C, ...)`` of any floating dtype.
            labels: ``(N,)`` or ``(N, ...)`` integers in ``[0, C)`` or ``ignore_index``.

        Returns:
            A scalar in float32, or float64 for float64 logits; zero with a graph where every pixel
            is ignored.

        Raises:
            ValueError: shapes or labels that do not fit, naming what was given and expected.
        """
        is_valid = check_dense_batch(logits, labels, self.num_classes, self.ignore_index)
        labels = labels.long()
        normalizer = self._count(labels, is_valid)
        scale = self.loss_weight
        if self.sample_size is not None:
            logits, labels, drawn = _draw(logits, labels, is_valid, self.sample_size)
            scale /= drawn
        with torch.autocast(logits.device.type, enabled=False):
            total = sum_in_chunks(self._sum, logits, labels, self.chunk_size)
            return scale * total / normalizer.to(total.dtype)

    def _sum(self, logits: Tensor, labels: Tensor) -> Tensor:
        logits = full_precision(logits)
        # An ignored pixel needs some class to be weighed against; cross-entropy then drops it.
        some_class = torch.where(labels == self.ignore_index, 0, labels)
        shifted = seesaw_logits(logits, some_class, self.class_counts, self.p, self.q, self.eps)
        return F.cross_entropy(shifted, labels, ignore_index=self.ignore_index, reduction="sum")

    def _count(self, labels: Tensor, is_valid: Tensor) -> Tensor:
        """Add the batch to the counts in a training step; return the pixels to divide the loss by.

        On several ranks that is the mean number per rank, because DDP averages the gradients.
        """
        batch_counts = count_labels(labels, is_valid, self.num_classes)
        ranks = 1
        if is_training_step(self):
            ranks = sum_over_ranks(batch_counts) if self.sync else 1
            self.class_counts += batch_counts
        return batch_counts.sum().clamp(min=1) / ranks


def _draw(
    logits: Tensor, labels: Tensor, is_valid: Tensor, sample_size: int
) -> tuple[Tensor, Tensor, float]:
    """``(S, C)`` logits and ``(S,)`` labels of valid pixels, and the share that was drawn."""
    valid = is_valid.flatten().nonzero().squeeze(1)
    drawn = valid[torch.randperm(len(valid), device=valid.device)[:sample_size]]
    pixels_per_image = max(labels.shape[1:].numel(), 1)
    image, pixel = drawn // pixels_per_image, drawn % pixels_per_image
    columns = logits.unsqueeze(2) if logits.dim() == 2 else logits.flatten(2)
    return columns[image, :, pixel], labels.flatten()[drawn], len(drawn) / max(len(valid), 1) or 1.0
