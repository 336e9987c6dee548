r"""Seesaw Loss for long-tailed classification (Wang et al., CVPR 2021, arXiv 2008.10032).

Shapes in this module:
    R: sampled RoIs in the batch, foreground and background
    P: foreground RoIs among them, or any other samples that have a class
    C: foreground classes
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from d2_seesaw.losses._common import (
    IGNORED,
    check_dense_logits,
    check_labels,
    full_precision,
    sum_over_ranks,
)
from d2_seesaw.losses._first_pass import Tensors
from d2_seesaw.losses._roi_softmax import RoISoftmaxLoss
from d2_seesaw.losses.fused import fused_seesaw_losses, triton_seesaw_losses


def seesaw_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    class_counts: Tensor,
    *,
    p: float = 0.8,
    q: float = 2.0,
    eps: float = 1e-2,
    use_triton: bool = False,
) -> Tensor:
    r"""Compute cross-entropy with negative logits shifted by the log Seesaw weights (eq. 4-8).

    .. math::
        L_i = -\log \frac{e^{z_i}}{\sum_{j \ne i} M_{ij} C_{ij} e^{z_j} + e^{z_i}}, \quad
        M_{ij} = \min(1, N_j / N_i)^p, \quad
        C_{ij} = \max(1, \sigma_j / \max(\sigma_i, \epsilon))^q

    with :math:`\sigma = \mathrm{softmax}(z)`. The weights act as constants: no gradient flows
    through them. Computed in log space and float32 (float64 logits stay float64), with memory
    proportional to the logits. The gradient is computed along with the loss, in closed form, so the
    losses can be differentiated once.

    Args:
        logits: ``(P, C)``, or ``(P, C, ...)`` for dense predictions, of any floating dtype.
        labels: ``(P,)``, or ``(P, ...)``, class indices in ``[0, C)``.
        class_counts: ``(C,)`` samples seen so far per class; zeros count as ones.
        p: strength of the mitigation factor M; 0 turns it off.
        q: strength of the compensation factor C; 0 turns it off.
        eps: lower bound of the true class's probability in the compensation factor, in ``(0, 1]``.
        use_triton: compute losses and gradient of ``(P, C)`` logits on a CUDA device by one Triton
            kernel, if Triton is installed. The results are the same up to rounding.

    Returns:
        Losses of the labels' shape in float32, or float64 for float64 logits.

    Raises:
        ValueError: shapes or labels are invalid.
        RuntimeError: in a backward pass with ``create_graph=True``.
    """
    check_hyper_parameters(p, q, eps)
    if logits.dim() < 2:
        raise ValueError(f"logits must have shape (P, C, ...), got {tuple(logits.shape)}")
    num_classes = logits.shape[1]
    check_dense_logits(logits, labels, num_classes)
    labels = check_labels(labels, 0, num_classes - 1, f"{num_classes} classes")
    if class_counts.shape != (num_classes,):
        raise ValueError(
            f"class_counts must have shape ({num_classes},) to match logits "
            f"{tuple(logits.shape)}, got {tuple(class_counts.shape)}"
        )
    with torch.autocast(logits.device.type, enabled=False):
        return seesaw_losses(logits, labels, class_counts, p, q, eps, use_triton=use_triton)


def seesaw_losses(
    logits: Tensor,
    labels: Tensor,
    class_counts: Tensor,
    p: float,
    q: float,
    eps: float,
    *,
    ignored: int = IGNORED,
    use_triton: bool = False,
) -> Tensor:
    """Compute the losses of :func:`seesaw_cross_entropy`, whose arguments these are, unchecked.

    Samples with the label ``ignored`` have a loss of 0. Autocast must be off.
    """
    is_ignored = labels == ignored
    if use_triton and not torch.compiler.is_compiling():
        kept = labels if ignored == IGNORED else labels.masked_fill(is_ignored, IGNORED)
        losses = triton_seesaw_losses(logits, kept, class_counts, p, q, eps)
        if losses is not None:
            return losses
    logits = full_precision(logits)
    classes = labels.masked_fill(is_ignored, 0)
    if torch.compiler.is_compiling():  # the compiler derives and fuses the backward pass itself
        shifted = seesaw_logits(logits, classes, class_counts, p, q, eps)
        return F.cross_entropy(shifted, labels, ignore_index=ignored, reduction="none")
    log_counts = _log_counts(class_counts, p, logits.dtype)
    losses = fused_seesaw_losses(logits, classes, log_counts, q, math.log(eps))
    return losses.masked_fill(is_ignored, 0)


def check_hyper_parameters(p: float, q: float, eps: float) -> None:
    """Check the hyper-parameters of Seesaw Loss.

    Raises:
        ValueError: an exponent is negative, or ``eps`` is not in ``(0, 1]``.
    """
    for name, value in (("p", p), ("q", q)):
        if not value >= 0:
            raise ValueError(f"{name} must be 0 or more, got {value}")
    if not 0 < eps <= 1:
        raise ValueError(f"eps must be in (0, 1], got {eps}")


def seesaw_logits(
    logits: Tensor, labels: Tensor, class_counts: Tensor, p: float, q: float, eps: float
) -> Tensor:
    """Add the log Seesaw weights to ``logits``; their cross-entropy is Seesaw Loss.

    Takes the arguments of :func:`seesaw_cross_entropy`, unchecked, with logits in full precision.
    """
    with torch.no_grad():
        true_class = labels.unsqueeze(1)
        if q > 0:
            log_weights = logits.log_softmax(dim=1)
            floor = log_weights.gather(1, true_class).clamp_(min=math.log(eps))
            log_weights.sub_(floor).clamp_(min=0).mul_(q)
        else:
            log_weights = torch.zeros_like(logits)
        if p > 0:
            log_counts = _log_counts(class_counts, p, logits.dtype)
            per_class = log_counts.view(-1, *[1] * (logits.dim() - 2))
            log_weights += (per_class - log_counts[true_class]).clamp_(max=0)
    return log_weights.add_(logits)


def _log_counts(class_counts: Tensor, p: float, dtype: torch.dtype) -> Tensor:
    """Return p times the log of the counts, where zeros count as ones."""
    return class_counts.clamp(min=1).to(torch.float64).log().mul(p).to(dtype)


class SeesawLoss(RoISoftmaxLoss):
    """Seesaw class loss on the foreground RoIs and an objectness loss on all of them.

    The logits are C classes, then *object*, then *background* (paper, section 3.3). The loss counts
    the RoIs of each class in ``class_counts``, an integer buffer of length C + 1 with background
    last. The buffer is saved with the model and stays int64 after ``.half()``. It changes only in
    training mode with gradients enabled, so a validation loss under ``torch.no_grad()`` leaves it
    unchanged. Activation checkpointing around the loss counts a batch once.

    With ``sync`` and a process group, counts and the number of RoIs are summed over the ranks, so
    that counts, loss and (averaged) gradients equal those of one process on the whole batch. All
    ranks must then call the loss equally often. Without it, each rank keeps its own counts and a
    checkpoint holds those of rank 0, as in mmdet.

    Without ``objectness``, the logits are C classes, then background, in one softmax (paper,
    table 8, "C + 1"). The paper gives no equations for this form and no code of it is public. Here
    background is class C + 1 of equations 4 to 8, with its RoIs as its count. The count of
    background exceeds that of every class, so mitigation leaves foreground RoIs as they are with
    respect to background, and background RoIs suppress class j by :math:`(N_j / N_{bg})^p` only.
    Compensation raises the latter again where a class scores higher than background.

    Args:
        num_classes: C, the number of foreground classes.
        p: strength of the mitigation factor.
        q: strength of the compensation factor.
        eps: lower bound of the true class's probability in the compensation factor, in ``(0, 1]``.
        objectness: whether background is separated from the classes by an objectness.
        loss_weight: factor on the losses.
        sync: sum counts over the ranks.
        use_triton: compute the class loss on a CUDA device by one Triton kernel, if Triton is
            installed. The results are the same up to rounding.

    Raises:
        ValueError: a hyper-parameter is out of range.
    """

    class_counts: Tensor
    options = ("p", "q", "eps")

    def __init__(
        self,
        num_classes: int,
        *,
        p: float = 0.8,
        q: float = 2.0,
        eps: float = 1e-2,
        objectness: bool = True,
        loss_weight: float = 1.0,
        sync: bool = True,
        use_triton: bool = False,
    ) -> None:
        super().__init__(num_classes, objectness=objectness, loss_weight=loss_weight, sync=sync)
        check_hyper_parameters(p, q, eps)
        self.use_triton = use_triton
        self.p = p
        self.q = q
        self.eps = eps
        self.register_buffer("class_counts", torch.zeros(num_classes + 1, dtype=torch.int64))

    def adjust(self, logits: Tensor, labels: Tensor, *statistics: Tensor) -> Tensor:
        """Add the log Seesaw weights to the logits, whose cross-entropy is the loss."""
        (class_counts,) = statistics
        return seesaw_logits(logits, labels, class_counts, self.p, self.q, self.eps)

    def _cross_entropy(self, logits: Tensor, labels: Tensor, *statistics: Tensor) -> Tensor:
        """Sum the Seesaw cross-entropy over the RoIs that are not ignored."""
        (class_counts,) = statistics
        options = (self.p, self.q, self.eps)
        return seesaw_losses(
            logits, labels, class_counts, *options, use_triton=self.use_triton
        ).sum()

    def count(self, labels: Tensor, is_training_step: bool) -> Tensors:
        """Add the batch to the counts in a training step.

        Returns:
            The normalizer of the losses, and the counts of the classes in the softmax.
        """
        # Not bincount: the size of its result depends on the data, which needs a GPU sync.
        counts_after_ignored = labels.new_zeros(self.num_classes + 2)
        counts_after_ignored.scatter_add_(0, labels - IGNORED, torch.ones_like(labels))
        batch_counts = counts_after_ignored[1:].contiguous()
        ranks = 1
        if is_training_step:
            ranks = sum_over_ranks(batch_counts) if self.sync else 1
            self.class_counts += batch_counts
        counts = self.class_counts[:-1] if self.objectness else self.class_counts
        return batch_counts.sum().clamp(min=1) / ranks, counts
