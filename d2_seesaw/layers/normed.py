r"""Linear and convolution layers on normalized weights and features (Seesaw paper, section 3.3).

.. math::
    y = \tau \left(\frac{W}{\lVert W \rVert_2^a + \epsilon}\right)^{\!\top}
        \frac{x}{\lVert x \rVert_2^a + \epsilon} + b

Trained weights of the authors' implementation require three details: ``eps`` is added to the norm
(``F.normalize`` takes the larger of the two), the bias is not scaled by the temperature, and zero
features give the bias.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _norm(x: Tensor, dim: int | tuple[int, ...], power: float, eps: float) -> Tensor:
    norm = torch.linalg.vector_norm(x, dim=dim, keepdim=True)
    if power != 1:
        # At zero features the gradient of a root is infinite; the clamp makes it zero.
        norm = norm.clamp(min=torch.finfo(norm.dtype).tiny).pow(power)
    return norm + eps


def _normalize(x: Tensor, dim: int | tuple[int, ...], power: float, eps: float) -> Tensor:
    return x / _norm(x, dim, power, eps)


def in_float16(x: Tensor) -> bool:
    """Return whether operations on ``x`` compute in float16, by its type or by autocast.

    The scale of features near zero, and the gradient of what it scales, exceed float16.
    """
    device = x.device.type
    if torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device) == torch.float16
    return x.dtype == torch.float16


class NormedLinear(nn.Linear):
    """``nn.Linear`` whose weight rows and input rows are divided by their norms.

    Initialized as in the authors' code: weights from ``N(0, 0.01)``, bias 0.

    Args:
        in_features: D, size of each input row.
        out_features: size of each output row.
        bias: add a learned bias, which the temperature does not scale.
        temperature: factor on the normalized input.
        power: exponent of the norms; 1 normalizes fully, 0 divides by 1.
        eps: added to the norms.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        temperature: float = 20.0,
        power: float = 1.0,
        eps: float = 1e-6,
    ) -> None:
        self.temperature = temperature
        self.power = power
        self.eps = eps
        super().__init__(in_features, out_features, bias)

    def reset_parameters(self) -> None:
        """Draw new weights from ``N(0, 0.01)`` and set the bias to 0."""
        nn.init.normal_(self.weight, std=0.01)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, input: Tensor) -> Tensor:
        """Map ``(..., D)`` to ``(..., out_features)``."""
        weight = _normalize(self.weight, 1, self.power, self.eps)
        x = self.temperature * _normalize(input, -1, self.power, self.eps)
        return F.linear(x, weight, self.bias)

    def extra_repr(self) -> str:
        """Return sizes and hyper-parameters for ``print(model)``."""
        return f"{super().extra_repr()}, temperature={self.temperature}, power={self.power}"


class TauNormalizedLinear(nn.Linear):
    r"""``nn.Linear`` whose weight rows are divided by a power of their norms, without bias.

    .. math::
        y = \left(\frac{W}{\lVert W \rVert_2^\tau}\right)^{\!\top} x

    Tau-normalization of a trained classifier (Kang et al., ICLR 2020, section 4.3). It takes the
    weights of a plain ``nn.Linear``, whose bias it leaves out as the authors' code does.

    Args:
        in_features: D, size of each input row.
        out_features: size of each output row.
        tau: exponent; 0 keeps the weights, 1 normalizes them fully.
    """

    def __init__(self, in_features: int, out_features: int, *, tau: float = 1.0) -> None:
        super().__init__(in_features, out_features)
        self.tau = tau

    def forward(self, input: Tensor) -> Tensor:
        """Map ``(..., D)`` to ``(..., out_features)``."""
        norm = torch.linalg.vector_norm(self.weight, dim=1, keepdim=True)
        return F.linear(input, self.weight / norm.pow(self.tau))

    def extra_repr(self) -> str:
        """Return sizes and the exponent for ``print(model)``."""
        return f"{super().extra_repr()}, tau={self.tau}"


class NormedConv2d(nn.Conv2d):
    """``nn.Conv2d`` on features normalized per pixel over the channels, with normalized weights.

    Initialized as in the authors' mask head: Kaiming normal (fan out, ReLU), bias 0.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: as in ``nn.Conv2d``.
        temperature: factor on the normalized input.
        power: exponent of the norms.
        eps: added to the norms.
        norm_over_kernel: normalize a weight over the whole kernel instead of over the channels of
            each tap. No difference for 1 x 1 kernels.
        conv_options: ``stride``, ``padding``, ``dilation``, ``groups``, ``bias``, as in
            ``nn.Conv2d``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        *,
        temperature: float = 20.0,
        power: float = 1.0,
        eps: float = 1e-6,
        norm_over_kernel: bool = False,
        **conv_options: int | bool | str,
    ) -> None:
        self.temperature = temperature
        self.power = power
        self.eps = eps
        self.norm_over_kernel = norm_over_kernel
        super().__init__(in_channels, out_channels, kernel_size, **conv_options)  # type: ignore[arg-type]

    def reset_parameters(self) -> None:
        """Draw new weights (Kaiming normal, fan out) and set the bias to 0."""
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, input: Tensor) -> Tensor:
        """Map ``(N, in_channels, H, W)`` to ``(N, out_channels, H', W')``."""
        weight = self.normalized(self.weight)
        if self._has_fewer_products_than_inputs() and not in_float16(input):
            # Scaling the products avoids copies of the input: its gradient takes most of the time
            # of a class-agnostic mask predictor.
            y = self._conv_forward(input, weight, None) * self.input_scale(input)
            return y if self.bias is None else y + self.bias[:, None, None]
        x = self.temperature * self.normalized_input(input)
        return self._conv_forward(x, weight, self.bias)

    def _has_fewer_products_than_inputs(self) -> bool:
        return (
            self.kernel_size == self.stride == (1, 1)
            and self.padding in ((0, 0), "valid", "same")
            and self.out_channels < self.in_channels
        )

    def normalized(self, weight: Tensor) -> Tensor:
        """Divide ``weight``, or some rows of it, by its norms."""
        kernel_dims = (1, 2, 3) if self.norm_over_kernel else 1
        return _normalize(weight, kernel_dims, self.power, self.eps)

    def normalized_input(self, input: Tensor) -> Tensor:
        """Divide the features of each pixel, ``(N, in_channels, H, W)``, by their norm."""
        return _normalize(input, 1, self.power, self.eps)

    def input_scale(self, input: Tensor) -> Tensor:
        """Return the factor of each pixel: ``(N, 1, H, W)`` for ``(N, in_channels, H, W)``."""
        return self.temperature / _norm(input, 1, self.power, self.eps)

    def extra_repr(self) -> str:
        """Return sizes and hyper-parameters for ``print(model)``."""
        return f"{super().extra_repr()}, temperature={self.temperature}, power={self.power}"
