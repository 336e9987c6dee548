"""Progressive constraint: one branch of a network should exceed another by a margin.

From TSD (Song et al., "Revisiting the Sibling Head in Object Detector", CVPR 2020, section 3.3),
where the measure is the probability of the true class or the IoU with the ground-truth box.
"""

from torch import Tensor


def progressive_constraint(achieved: Tensor, reference: Tensor, *, margin: float = 0.3) -> Tensor:
    r"""Compute the mean shortfall of one branch against another branch plus a margin.

    .. math::
        L = \frac{1}{R} \sum_r \max(0,\; b_r + \min(1 - b_r, m) - a_r)

    Args:
        achieved: ``(R,)`` measures a in ``[0, 1]`` of the branch that is trained.
        reference: ``(R,)`` measures b in ``[0, 1]`` of the branch to exceed, treated as constants.
        margin: m; 0.2 in the paper, 0.3 in all configs that its authors published.

    Returns:
        A scalar; a differentiable zero if there are no measures.

    Raises:
        ValueError: the measures differ in shape.
    """
    if achieved.shape != reference.shape:
        raise ValueError(
            f"achieved and reference must have the same shape, got {tuple(achieved.shape)} and "
            f"{tuple(reference.shape)}"
        )
    reference = reference.detach()
    required = reference + (1 - reference).clamp(max=margin)
    return (required - achieved).clamp(min=0).sum() / max(len(achieved), 1)
