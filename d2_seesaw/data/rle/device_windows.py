"""Windows of masks on the device of the masks, of which only the changes are copied to the CPU.

The interpolation need not round as on the CPU: pixels whose value is closer to the threshold than
rounding can move it are left undecided, and decided on the CPU. Lines of windows, which are few,
are computed there, too.

Shapes in this module:
    N: masks
    M: edge of a mask on its box
    P: pixels of all windows, column by column
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


class DeviceLines:
    """Columns or rows of all windows, on a device.

    Args:
        cell: cell of the mask before each line, from -1 to M - 1.
        weight: float32 weight of the cell after it.
        offset: ``(N + 1,)`` first line of each window.
        device: where the lines go.
    """

    def __init__(self, cell: Ints, weight: Floats, offset: Ints, device: torch.device) -> None:
        self.cell = torch.from_numpy(cell).to(device) + 1  # of masks with a margin
        self.weight = torch.from_numpy(weight).to(device)
        self.first = torch.from_numpy(offset[:-1]).to(device)
        self.number = torch.from_numpy(np.diff(offset)).to(device)


def changes_on_device(
    masks: Tensor,
    bounds: tuple[Floats, Floats],
    columns: DeviceLines,
    rows: DeviceLines,
    decide: Callable[[Ints], NDArray[np.uint8]],
) -> tuple[Ints, Ints]:
    """Return the places where pixels change, counted in each window, and their number in each.

    Args:
        masks: ``(N, M, M)`` float32 on the device, finite.
        bounds: ``(N,)`` values below which a pixel is outside, and from which on it is inside.
        columns: columns of the windows, of which the first is blank.
        rows: rows of the windows, of which the last is blank.
        decide: takes undecided pixels of all windows, ascending; returns 1 for those inside, else
            0.
    """
    device = masks.device
    sizes = columns.number * rows.number
    ends = sizes.cumsum(0)
    total = int(ends[-1])
    window = torch.arange(len(masks), device=device).repeat_interleave(sizes, output_size=total)
    starts = ends - sizes
    place = torch.arange(total, device=device) - starts[window]
    column = place // rows.number[window]
    x = columns.first[window] + column
    y = rows.first[window] + place - column * rows.number[window]
    # Cells around the mask are zero.
    margin = torch.nn.functional.pad(masks, (1, 1, 1, 1)).flatten()
    edge = masks.shape[-1] + 2
    corner = (window * edge + rows.cell[y]) * edge + columns.cell[x]
    right, below = columns.weight[x], rows.weight[y]
    upper = (1 - right) * margin[corner] + right * margin[corner + 1]
    lower = (1 - right) * margin[corner + edge] + right * margin[corner + edge + 1]
    values = (1 - below) * upper + below * lower
    lowest, highest = (torch.from_numpy(bound).to(device)[window] for bound in bounds)
    # A window begins with a blank column and its columns end with a blank pixel.
    is_real = (column > 0) & (y + 1 < rows.first[window] + rows.number[window])
    inside = (values >= highest) & is_real
    undecided = ((values >= lowest) & ~inside & is_real).nonzero().squeeze(1)
    if len(undecided):
        decided = torch.from_numpy(decide(undecided.cpu().numpy()))
        inside[undecided] = decided.to(device, torch.bool)
    changed = (inside[1:] != inside[:-1]).nonzero().squeeze(1) + 1
    numbers = torch.bincount(window[changed], minlength=len(masks))
    return place[changed].cpu().numpy(), numbers.cpu().numpy()
