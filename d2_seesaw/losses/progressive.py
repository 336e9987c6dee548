"""Progressive constraint: one branch of a network is to do better than another by a margin.

From TSD (Song et al., "Revisiting the Sibling Head in Object Detector", CVPR 2020, section 3.3),
where the two measures are the probability of the true class and the overlap with the true box.
"""

from torch import Tensor


def progressive_constraint(achieved: Tensor, reference: Tensor, *, margin: float = 0.3) -> Tensor:
    r"""How far one branch stays behind what is asked of it, given what another one achieves.

    .. math::
        L = \frac{1}{R} \sum_r \max(0,\; b_r + \min(1 - b_r, m) - a_r)

    Args:
        achieved: ``(R,)`` measures a in ``[0, 1]`` of the branch that learns.
        reference: ``(R,)`` measures b in ``[0, 1]`` of the branch to exceed, taken as constants.
        margin: m, by how much; the paper has 0.2, all configs its authors published have 0.3.

    Returns:
        A scalar, zero with a graph where there is nothing to compare.

    Raises:
        ValueError: measures of different shapes.
    """
    if achieved.shape != reference.shape:
        raise ValueError(
            f"achieved and reference must have one shape, got {tuple(achieved.shape)} and "
            f"{tuple(reference.shape)}"
        )
    reference = reference.detach()
    asked = reference + (1 - reference).clamp(max=margin)
    return (asked - achieved).clamp(min=0).sum() / max(len(achieved), 1)
