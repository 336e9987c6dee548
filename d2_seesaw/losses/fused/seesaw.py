r"""Seesaw Loss and its gradient in one pass over the logits.

The weights of equations 6 to 8 act as constants: no gradient flows through the class counts or
through :math:`\sigma`. With the log weights of sample i with label y,

.. math::
    w_j = \min(0,\; p \log N_j - p \log N_y)
        + q \max(0,\; \log \sigma_j - \max(\log \sigma_y, \log \epsilon)), \quad w_y = 0,

the loss is the cross-entropy of the shifted logits :math:`s = z + w`, and :math:`\partial s /
\partial z` is the identity. So

.. math::
    L = \log \sum_j e^{s_j} - s_y, \qquad
    \frac{\partial L}{\partial z_j} = \frac{e^{s_j}}{\sum_k e^{s_k}} - [j = y].

The gradient is a softmax, which the forward pass computes anyway. It is kept for the backward pass
and multiplied there by the gradient of the loss, so neither :math:`z` nor :math:`s` is kept.

With the compensation factor, z and s have different normalizers: two softmaxes are needed. The
first one needs only

.. math:: w_j + z_j = m_j + t - \phi(t - z_j), \quad \phi(x) = x \text{ for } x > 0
    \text{, else } (1 + q) x, \quad t = \log \textstyle\sum_k e^{z_k}
    + \max(\log \sigma_y, \log \epsilon)

where m is the mitigation: the compensation is a leaky ReLU of slope 1 + q, which works in place. A
constant of the row, such as t, changes neither the loss nor the gradient.

Shapes in this module:
    P: samples, or ``(P, ...)`` pixels
    C: classes
"""

import importlib.util
import os
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function


def fused_seesaw_losses(
    logits: Tensor, labels: Tensor, log_counts: Tensor, q: float, log_eps: float
) -> Tensor:
    """Compute the Seesaw Loss of each sample. It can be differentiated once.

    Args:
        logits: ``(P, C)`` or ``(P, C, ...)``, in float32 or float64.
        labels: ``(P,)`` or ``(P, ...)`` class indices.
        log_counts: ``(C,)``, p times the log of the class counts.
        q: strength of the compensation factor.
        log_eps: log of the lower bound of the true class's probability.

    Returns:
        Losses of the labels' shape.
    """
    return _FusedSeesaw.apply(logits, labels, log_counts, q, log_eps)


def triton_seesaw_losses(
    logits: Tensor, labels: Tensor, class_counts: Tensor, p: float, q: float, eps: float
) -> Tensor | None:
    """Compute the Seesaw Loss of each sample by one Triton kernel. It can be differentiated once.

    Args:
        logits: ``(P, C)`` in float32, bfloat16 or float16; arithmetic is float32.
        labels: ``(P,)`` int64 class indices; negative ones are ignored, with losses of 0.
        class_counts: ``(C,)`` counts.
        p: strength of the mitigation factor.
        q: strength of the compensation factor.
        eps: lower bound of the true class's probability.

    Returns:
        ``(P,)`` losses in float32; None if the kernel cannot run on these logits: Triton is not
        installed, they are not on a CUDA device, or have another shape or dtype.
    """
    is_on_device = logits.is_cuda or os.environ.get("TRITON_INTERPRET") == "1"
    dtypes = (torch.float32, torch.bfloat16, torch.float16)
    if not is_on_device or logits.dim() != 2 or logits.dtype not in dtypes:
        return None
    if importlib.util.find_spec("triton") is None:
        return None
    return _TritonSeesaw.apply(logits, labels, class_counts, p, q, eps)


class _FusedSeesaw(Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, labels: Tensor, log_counts: Tensor, q: float, log_eps: float
    ) -> Tensor:
        true_class = labels.unsqueeze(1)
        probabilities = torch.empty_like(logits)
        shifted = _shifted_logits(logits, true_class, log_counts, q, log_eps, probabilities)
        torch.softmax(shifted, dim=1, out=probabilities)
        # The log of the normalizer is s_k - log(softmax(s)_k) for any k. That of the true class may
        # underflow, the largest one cannot.
        lead = shifted.amax(dim=1, keepdim=True).sub_(shifted.gather(1, true_class))
        losses = lead.sub_(probabilities.amax(dim=1, keepdim=True).log_())
        if ctx.needs_input_grad[0]:
            minus_one = torch.full_like(lead, -1.0)
            ctx.save_for_backward(probabilities.scatter_add_(1, true_class, minus_one))
        return losses.squeeze(1)

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        _refuse_second_derivative()
        return gradient * grad_outputs[0].unsqueeze(1), None, None, None, None


def _shifted_logits(
    logits: Tensor,
    true_class: Tensor,
    log_counts: Tensor,
    q: float,
    log_eps: float,
    buffer: Tensor,
) -> Tensor:
    """Return s up to a constant for each sample; ``buffer`` is overwritten."""
    per_class = log_counts.view(-1, *[1] * (logits.dim() - 2))
    mitigation = (per_class - log_counts[true_class]).clamp_(max=0)
    if q == 0:
        return mitigation.add_(logits)
    log_probabilities = torch.log_softmax(logits, dim=1, out=buffer)
    floor = log_probabilities.gather(1, true_class).clamp_(min=log_eps)
    below = torch.sub(floor, log_probabilities, out=buffer)
    return mitigation.sub_(F.leaky_relu_(below, 1 + q))


class _TritonSeesaw(Function):
    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        labels: Tensor,
        class_counts: Tensor,
        p: float,
        q: float,
        eps: float,
    ) -> Tensor:
        from d2_seesaw.losses.fused.seesaw_kernel import losses_and_gradient

        losses, gradient = losses_and_gradient(
            logits, labels, class_counts, p, q, eps, with_gradient=ctx.needs_input_grad[0]
        )
        ctx.save_for_backward(gradient)
        ctx.dtype = logits.dtype
        return losses

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        _refuse_second_derivative()
        result = torch.empty_like(gradient, dtype=ctx.dtype)
        torch.mul(gradient, grad_outputs[0].unsqueeze(1), out=result)
        return result, None, None, None, None, None


def _refuse_second_derivative() -> None:
    if torch.is_grad_enabled():
        raise RuntimeError(
            "Seesaw Loss can be differentiated once: its gradient is computed in closed form, and "
            "its weights are constants. Call backward or torch.autograd.grad without "
            "create_graph=True"
        )
