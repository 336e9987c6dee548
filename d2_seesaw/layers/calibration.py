r"""Calibration of classification scores after training: its parameters and its layer.

All methods that act on scores change the log odds :math:`l_c` of class c:

.. math::
    l'_c = l_c / T_c + b_c

- NorCal (Pan et al., NeurIPS 2021, arXiv 2107.02170) divides the odds by :math:`N_c^\gamma`, with
  the count :math:`N_c` of the class in training: :math:`b_c = -\gamma \log N_c`.
- Post-hoc logit adjustment (Menon et al., ICLR 2021, arXiv 2007.07314) subtracts the log prior:
  :math:`b_c = -\tau \log \pi_c` with :math:`\pi_c = N_c / \sum_k N_k`.
- Temperature scaling (Guo et al., ICML 2017, arXiv 1706.04599), with one temperature for each
  frequency group: :math:`T_c = T_{g(c)}`.

The odds are those that the loss defines, so that background or objectness stays as it is:

- ``"background"``, softmax over C classes and background: :math:`l_c = \log p_c - \log p_{bg}`. The
  log odds of background remain 0, and the result is normalized over all C + 1:
  :math:`p'_c = e^{l'_c} / (1 + \sum_k e^{l'_k})`.
- ``"foreground"``, a distribution over the classes times objectness :math:`o = \sum_k p_k`, as in
  Seesaw Loss: :math:`l_c = \log p_c - \log o` and
  :math:`p'_c = o \, e^{l'_c} / \sum_k e^{l'_k}`. Objectness and background are unchanged.
- ``"objectness"``, a probability :math:`q_c` of each class, which need not sum to 1, times
  objectness :math:`o = 1 - p_{bg}`, as in EQL v2: :math:`l_c = \log q_c - \log(1 - q_c)` with
  :math:`q_c = p_c / o`, and :math:`p'_c = o \, \sigma(l'_c)`. Objectness is unchanged.
- ``"independent"``, one sigmoid per class: :math:`l_c = \log p_c - \log(1 - p_c)` and
  :math:`p'_c = \sigma(l'_c)`. The last column is unchanged.

Classifier re-normalization (tau-norm, Kang et al., ICLR 2020, arXiv 1910.09217) acts on the weights
instead, see :func:`tau_normalized`.

Shapes in this module:
    R: RoIs
    C: foreground classes
    D: features of a RoI
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

STRUCTURES = ("background", "foreground", "objectness", "independent")
"""Ways in which scores depend on each other."""

GROUPS = {"r": "rare", "c": "common", "f": "frequent"}
PARAMETERS = {
    "norcal": ("gamma",),
    "logit-adjustment": ("tau",),
    "temperature": tuple(GROUPS.values()),
    "tau-norm": ("tau",),
}
"""Methods, with the names of their parameters."""

_LARGEST = 1e12
_TITLES = {
    "norcal": "NorCal",
    "logit-adjustment": "logit adjustment",
    "temperature": "temperature per frequency group",
    "tau-norm": "tau-normalized classifier",
}


@dataclass(frozen=True)
class Calibration:
    """Calibration of a detector, as plain values that a checkpoint can hold.

    Attributes:
        method: a key of :data:`PARAMETERS`.
        parameters: the method's parameters by name. All-zero exponents and temperatures of 1 change
            nothing, bit for bit.
        num_classes: C.
        structure: one of :data:`STRUCTURES`.
        class_counts: C counts of the training split, for NorCal and logit adjustment; zeros count
            as ones. Empty for the other methods.
        groups: C letters ``r``, ``c`` and ``f`` for temperatures; empty for the other methods.
        origin: where the parameters come from, for people.

    Raises:
        ValueError: an unknown method or structure, missing or impossible parameters, counts or
            groups.
    """

    method: str
    parameters: Mapping[str, float]
    num_classes: int
    structure: str = "background"
    class_counts: Sequence[float] = field(default=(), repr=False)
    groups: str = field(default="", repr=False)
    origin: str = ""

    def __post_init__(self) -> None:
        if self.method not in PARAMETERS:
            raise ValueError(f"unknown method {self.method!r}, expected one of {list(PARAMETERS)}")
        if self.structure not in STRUCTURES:
            raise ValueError(f"structure must be one of {list(STRUCTURES)}, got {self.structure!r}")
        if type(self.num_classes) is not int or self.num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {self.num_classes!r}")
        self._check_parameters()
        if self.method in ("norcal", "logit-adjustment"):
            self._check_counts()
        wrong = len(self.groups) != self.num_classes or set(self.groups) - set(GROUPS)
        if self.method == "temperature" and wrong:
            raise ValueError(
                f"temperatures need a group, r, c or f, for each of the {self.num_classes} "
                f"classes, got {self.groups[:40]!r}"
            )

    def _check_parameters(self) -> None:
        names = PARAMETERS[self.method]
        if not isinstance(self.parameters, Mapping) or set(self.parameters) != set(names):
            given = list(self.parameters) if isinstance(self.parameters, Mapping) else "none"
            raise ValueError(f"{self.method} needs the parameters {list(names)}, got {given}")
        for name, value in self.parameters.items():
            positive = self.method == "temperature"
            if not _is_number(value) or (positive and value <= 0):
                expected = "a number above 0" if positive else "a finite number"
                raise ValueError(f"{name} of {self.method} must be {expected}, got {value!r}")

    def _check_counts(self) -> None:
        counts = self.class_counts
        if len(counts) != self.num_classes:
            raise ValueError(
                f"{self.method} needs the counts of {self.num_classes} classes, got {len(counts)}"
            )
        for index, count in enumerate(counts):
            if not _is_number(count) or count < 0:
                raise ValueError(f"the count of class {index} must be 0 or more, got {count!r}")
        if not any(counts):
            raise ValueError(f"{self.method} needs class counts, all {len(counts)} are 0")

    @classmethod
    def from_entry(cls, entry: Any) -> "Calibration":
        """Build a calibration from the entry of a checkpoint.

        Raises:
            ValueError: the entry cannot be right.
        """
        if not isinstance(entry, Mapping) or set(entry) - set(cls.__dataclass_fields__):
            raise ValueError(f"calibration must be a dictionary of its fields, got {entry!r:.80}")
        kinds = {"method": str, "structure": str, "groups": str, "origin": str}
        for name, kind in kinds.items():
            if not isinstance(entry.get(name, ""), kind):
                raise ValueError(f"calibration.{name} must be text, got {entry[name]!r:.40}")
        if not isinstance(entry.get("class_counts", ()), list | tuple):
            raise ValueError("calibration.class_counts must be a list of numbers")
        try:
            return cls(**entry)
        except (TypeError, ValueError) as error:
            raise ValueError(f"the calibration cannot be used: {error}") from error

    def entry(self) -> dict[str, Any]:
        """Return the calibration as plain values, for a checkpoint."""
        plain = {**asdict(self), "parameters": dict(self.parameters)}
        return plain | {"class_counts": list(self.class_counts)}

    @property
    def is_identity(self) -> bool:
        """Whether the calibration changes nothing."""
        neutral = 1 if self.method == "temperature" else 0
        return all(value == neutral for value in self.parameters.values())

    def __str__(self) -> str:
        values = ", ".join(f"{name} {value:.4g}" for name, value in self.parameters.items())
        return f"{_TITLES[self.method]}, {values}" + (f" ({self.origin})" if self.origin else "")


def _is_number(value: Any) -> bool:
    known = isinstance(value, int | float) and not isinstance(value, bool)
    return known and -_LARGEST < value < _LARGEST


def slopes_and_offsets(calibration: Calibration) -> tuple[Tensor, Tensor]:
    r"""Return the ``(C,)`` :math:`1 / T_c` and :math:`b_c` of a method that acts on scores."""
    slopes = torch.ones(calibration.num_classes, dtype=torch.float64)
    offsets = torch.zeros_like(slopes)
    values = calibration.parameters
    if calibration.method == "temperature":
        inverse = {group: 1 / values[name] for group, name in GROUPS.items()}
        slopes = torch.tensor([inverse[g] for g in calibration.groups], dtype=torch.float64)
    if calibration.method in ("norcal", "logit-adjustment"):
        counts = torch.tensor(calibration.class_counts, dtype=torch.float64).clamp(min=1)
        if calibration.method == "norcal":
            offsets = -values["gamma"] * counts.log()
        else:
            offsets = -values["tau"] * (counts / counts.sum()).log()
    return slopes.float(), offsets.float()


class ScoreCalibration(nn.Module):
    """Layer that calibrates the scores of all classes of each RoI.

    It has no parameters, and its buffers are not part of the state dict.

    Args:
        calibration: any method except ``"tau-norm"``.
    """

    slopes: Tensor
    offsets: Tensor

    def __init__(self, calibration: Calibration) -> None:
        super().__init__()
        slopes, offsets = slopes_and_offsets(calibration)
        self.register_buffer("slopes", slopes, persistent=False)
        self.register_buffer("offsets", offsets, persistent=False)
        self.calibration = calibration

    def extra_repr(self) -> str:
        """Return the method for ``print(model)``."""
        return str(self.calibration)

    def forward(self, scores: Tensor) -> Tensor:
        """Calibrate ``(R, C + 1)`` scores, background last; at least float32."""
        if self.calibration.is_identity:
            return scores
        structure = self.calibration.structure
        with torch.autocast(scores.device.type, enabled=False):
            scores = scores if scores.dtype == torch.float64 else scores.float()
            slopes, offsets = self.slopes.to(scores.dtype), self.offsets.to(scores.dtype)
            odds = log_odds(scores, structure) * slopes + offsets
            background = scores[:, -1:]
            if structure == "background":
                return torch.cat([odds, torch.zeros_like(background)], dim=1).softmax(dim=1)
            if structure in ("independent", "objectness"):
                objectness = 1 - background if structure == "objectness" else 1.0
                return torch.cat([objectness * odds.sigmoid(), background], dim=1)
            mass = scores[:, :-1].sum(dim=1, keepdim=True)
            classes = torch.where(mass > 0, mass * odds.softmax(dim=1), 0.0)
            return torch.cat([classes, background], dim=1)


def log_odds(scores: Tensor, structure: str) -> Tensor:
    """Compute the ``(R, C)`` log odds of the classes; minus infinity for scores of 0.

    Args:
        scores: ``(R, C + 1)`` scores, background last.
        structure: one of :data:`STRUCTURES`; see the module for their odds.
    """
    classes = scores[:, :-1]
    tiny = torch.finfo(scores.dtype).tiny
    if structure == "objectness":
        classes = (classes / (1 - scores[:, -1:]).clamp(min=tiny)).clamp(max=1)
    if structure in ("independent", "objectness"):
        return classes.log() - torch.log1p(-classes)
    against = scores[:, -1:] if structure == "background" else classes.sum(dim=1, keepdim=True)
    # A background score may underflow to 0.
    return classes.log() - against.clamp(min=tiny).log()


def tau_normalized(weight: Tensor, tau: float, num_classes: int) -> Tensor:
    r"""Divide the classifier weights of the foreground classes by a power of their norm.

    .. math::
        \tilde W_c = W_c \left(\frac{m}{\lVert W_c \rVert_2}\right)^\tau, \quad
        m = \exp\Big(\frac{1}{C} \sum_k \log \lVert W_k \rVert_2\Big)

    (Kang et al., ICLR 2020, section 4.1). The paper has no background and thus no :math:`m`: it
    scales all classes alike. Here it keeps the mean log norm of the foreground, so that logits
    remain comparable with those of background or objectness, whose weights are unchanged. Biases
    are kept.

    Args:
        weight: ``(L, D)`` weights of a linear classifier, the C foreground classes first.
        tau: strength; 0 returns the same values, 1 gives all classes the norm m.
        num_classes: C.

    Returns:
        ``(L, D)`` weights.
    """
    if tau == 0:
        return weight
    norms = torch.linalg.vector_norm(weight[:num_classes].float(), dim=1, keepdim=True)
    logs = norms.clamp(min=torch.finfo(norms.dtype).tiny).log()
    scale = (tau * (logs.mean() - logs)).exp().to(weight.dtype)
    return torch.cat([weight[:num_classes] * scale, weight[num_classes:]])
