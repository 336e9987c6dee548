"""Equations 3 to 9 of the Seesaw paper (arXiv 2008.10032), one RoI and one class at a time.

Slow and literal on purpose: the fast implementation is compared with it. All numbers are Python
floats, so double precision. The paper does not handle a true-class probability near 0; ``eps``
follows the authors' implementation.
"""

import math

import torch
from torch import Tensor


def softmax(z: list[float]) -> list[float]:
    largest = max(z)  # exp() of large logits would overflow
    exponentials = [math.exp(z_j - largest) for z_j in z]
    return [e / sum(exponentials) for e in exponentials]


def mitigation(n_i: float, n_j: float, p: float) -> float:
    """Return M_ij, equation 7."""
    n_i, n_j = max(n_i, 1.0), max(n_j, 1.0)
    return (n_j / n_i) ** p if n_i > n_j else 1.0


def compensation(sigma_i: float, sigma_j: float, q: float, eps: float) -> float:
    """Return C_ij, equation 8."""
    ratio = sigma_j / max(sigma_i, eps)
    return ratio**q if ratio > 1 else 1.0


def _weights(
    z: list[float], i: int, counts: list[float], p: float, q: float, eps: float
) -> list[float]:
    """Return S_ij for all j, and 1 for j = i, equation 6."""
    sigma = softmax(z)
    return [
        mitigation(counts[i], counts[j], p) * compensation(sigma[i], sigma[j], q, eps)
        if j != i
        else 1.0
        for j in range(len(z))
    ]


def _loss_and_gradient(
    z: list[float], i: int, counts: list[float], p: float, q: float, eps: float
) -> tuple[float, list[float]]:
    weights = _weights(z, i, counts, p, q, eps)
    ratio_to_true = [math.exp(z_j - z[i]) for z_j in z]
    denominator = sum(s * r for s, r in zip(weights, ratio_to_true, strict=True))
    sigma_hat = 1.0 / denominator  # equation 4, both parts divided by exp(z_i)
    gradient = [  # equation 5
        sigma_hat - 1 if j == i else weights[j] * ratio_to_true[j] * sigma_hat
        for j in range(len(z))
    ]
    return math.log(denominator), gradient


def seesaw(
    logits: Tensor, labels: Tensor, counts: Tensor, p: float, q: float, eps: float = 1e-2
) -> tuple[Tensor, Tensor]:
    """Return losses ``(P,)`` and their gradients ``(P, C)`` w.r.t. the logits, in float64."""
    rows = [
        _loss_and_gradient(z, i, counts.double().tolist(), p, q, eps)
        for z, i in zip(logits.double().tolist(), labels.tolist(), strict=True)
    ]
    losses = torch.tensor([loss for loss, _ in rows], dtype=torch.float64)
    gradients = torch.tensor([gradient for _, gradient in rows], dtype=torch.float64)
    return losses, gradients.reshape(logits.shape)


def detection_losses(
    logits: Tensor,
    labels: Tensor,
    counts: Tensor,
    p: float,
    q: float,
    eps: float = 1e-2,
    loss_weight: float = 1.0,
) -> dict[str, float]:
    """Return both losses of the detector for C + 2 logits, averaged over all sampled RoIs.

    ``counts`` are the C + 1 counts, including this batch.
    """
    C = logits.shape[1] - 2
    classes, objectness = 0.0, 0.0
    for z, label in zip(logits.double().tolist(), labels.tolist(), strict=True):
        is_object, is_background = softmax(z[C:])
        if label == C:
            objectness -= math.log(is_background)
        else:
            objectness -= math.log(is_object)
            loss, _ = _loss_and_gradient(z[:C], label, counts.double().tolist(), p, q, eps)
            classes += loss
    normalizer = max(len(labels), 1)
    return {
        "loss_cls_classes": loss_weight * classes / normalizer,
        "loss_cls_objectness": loss_weight * objectness / normalizer,
    }


def count(labels: Tensor, num_classes: int) -> list[int]:
    """Count each of the C + 1 labels, background last."""
    return [sum(label == c for label in labels.tolist()) for c in range(num_classes + 1)]


def scores(logits: Tensor) -> Tensor:
    """Return ``(R, C + 1)`` scores by equation 9: class times objectness, background last."""
    rows = []
    for z in logits.double().tolist():
        is_object, is_background = softmax(z[-2:])
        rows.append([sigma * is_object for sigma in softmax(z[:-2])] + [is_background])
    return torch.tensor(rows, dtype=torch.float64)
