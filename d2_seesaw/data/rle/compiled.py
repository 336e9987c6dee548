"""Functions for encoded masks, compiled by numba. ``kernels.py`` chooses them.

Shapes in this module:
    N: masks
    M: edge of a mask on its box
    B: bytes of all counts
    E: runs of all masks
    P: pixels of all windows
    C: pairs of masks
"""

from __future__ import annotations

import numba  # pyright: ignore[reportMissingImports]
import numpy as np

from d2_seesaw.data.rle.compiled_polygons import EXACT as POLYGONS_ARE_EXACT
from d2_seesaw.data.rle.compiled_polygons import draw, most_runs

__all__ = [
    "POLYGONS_ARE_EXACT",
    "UNDECIDED",
    "areas",
    "areas_of_ends",
    "changes",
    "draw",
    "ends_of_runs",
    "fill_windows",
    "ious",
    "most_runs",
]

_compiled = numba.njit(cache=True, nogil=True)


@_compiled
def _decompress(counts, ends):
    """Write the ends of the runs of compressed counts into ``ends``; return their number."""
    number = end = value = earlier = last = np.int64(0)
    shift = 0
    for byte in counts:
        bits = np.int64(byte) - 48
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        value -= (bits & 16) << (shift - 4)  # the sign
        # From the fourth run on, a number is relative to the run two positions earlier.
        value += earlier
        earlier, last = last, value if number else np.int64(0)
        end += value
        ends[number] = end
        number += 1
        value = np.int64(0)
        shift = 0
    return number


@_compiled
def areas(counts, starts, ends):
    """Return ``(N,)`` areas.

    Args:
        counts: ``(B,)`` uint8, compressed counts.
        starts: ``(N,)`` first byte of each mask.
        ends: ``(N,)`` byte after each mask.
    """
    found = np.zeros(len(starts))
    for i in range(len(starts)):
        area = value = earlier = last = np.int64(0)
        shift = 0
        foreground = np.int64(0)  # all bits are set in runs of the foreground
        for byte in counts[starts[i] : ends[i]]:
            bits = np.int64(byte) - 48
            value |= (bits & 31) << shift
            shift += 5
            if bits & 32:
                continue
            value -= (bits & 16) << (shift - 4)
            # As in _decompress. The runs of the foreground depend on one another alone.
            value += earlier
            earlier, last = last, value
            area += value & foreground
            foreground = ~foreground
            value = np.int64(0)
            shift = 0
        found[i] = area
    return found


@_compiled
def ends_of_runs(counts, starts, ends, places, written):
    """Write the ends of the runs of masks into ``written``.

    Args:
        counts: ``(B,)`` uint8, compressed counts.
        starts: ``(N,)`` first byte of each mask.
        ends: ``(N,)`` byte after each mask.
        places: ``(N,)`` first place for the ends of each mask, which has one for each of its bytes.
        written: ``(E,)`` int64, the ends of the runs of many masks.

    Returns:
        ``(N,)`` numbers of runs.
    """
    numbers = np.zeros(len(starts), np.int64)
    for i in range(len(starts)):
        numbers[i] = _decompress(counts[starts[i] : ends[i]], written[places[i] :])
    return numbers


@_compiled
def areas_of_ends(ends, places, numbers):
    """Return ``(N,)`` areas of masks, given ``numbers`` of ends of runs from ``places`` on."""
    found = np.zeros(len(places))
    for i in range(len(places)):
        area = np.int64(0)
        for k in range(places[i] + 1, places[i] + numbers[i], 2):
            area += ends[k] - ends[k - 1]
        found[i] = area
    return found


@_compiled
def ious(counts, starts, ends, sizes, number, ends_2, places_2, numbers_2, sizes_2, others):
    """Return ``(C,)`` IoUs of each mask with its others, those of pycocotools bit for bit.

    Args:
        counts: ``(B,)`` uint8, compressed counts.
        starts: ``(N,)`` first byte of each mask.
        ends: ``(N,)`` byte after each mask.
        sizes: ``(N, 2)`` heights and widths.
        number: ``(N,)`` others of each mask.
        ends_2: ``(E,)`` int64 ends of the runs of the other masks.
        places_2: first place of each of them.
        numbers_2: number of its runs.
        sizes_2: height and width of each.
        others: ``(C,)`` places of the others, mask by mask.
    """
    found = np.zeros(len(others))
    area_2 = np.zeros(len(places_2), np.int64)
    for j in range(len(places_2)):
        area_2[j] = _area(ends_2[places_2[j] : places_2[j] + numbers_2[j]])
    longest = 0
    for i in range(len(starts)):
        longest = max(longest, ends[i] - starts[i])
    memory = np.zeros(longest, np.int64)
    pair = 0
    for i in range(len(starts)):
        a = memory[: _decompress(counts[starts[i] : ends[i]], memory)]
        area = _area(a)
        for _ in range(number[i]):
            j = others[pair]
            b = ends_2[places_2[j] : places_2[j] + numbers_2[j]]
            if sizes[i, 0] != sizes_2[j, 0] or sizes[i, 1] != sizes_2[j, 1]:
                found[pair] = -1.0
            elif area < 0 or area_2[j] < 0:
                found[pair] = _iou(a, b)
            else:
                both = _intersection(a, b)
                if both:
                    found[pair] = both / (area + area_2[j] - both)
            pair += 1
    return found


@_compiled
def _area(ends):
    """Return the area of a mask, or -1 if one of its runs, but the first, has no length."""
    area = empty = np.int64(0)
    starts, stops = ends[:-1], ends[1:]
    for k in range(len(stops)):
        empty += stops[k] == starts[k]
        area += (stops[k] - starts[k]) * (1 - k % 2)
    return np.int64(-1) if empty else area


@_compiled
def _intersection(a, b):
    """Return the number of pixels in both masks, given the ends of their runs."""
    both = np.int64(0)
    # An end at an even place is the begin of a run of the mask.
    k_end, m_end = len(a) - 1, len(b) - 1
    if k_end < 1 or m_end < 1:
        return both
    if a[k_end - (k_end + 1) % 2] <= b[0] or b[m_end - (m_end + 1) % 2] <= a[0]:
        return both
    k = m = 0
    while k < k_end and m < m_end:
        a_end, b_end = a[k + 1], b[m + 1]
        both += max(np.int64(0), min(a_end, b_end) - max(a[k], b[m]))
        k += 2 * (a_end <= b_end)
        m += 2 * (b_end <= a_end)
    return both


@_compiled
def _iou(a, b):
    if len(a) == 0 or len(b) == 0:
        return 0.0
    in_a = in_b = False
    left_a, left_b = a[0], b[0]
    next_a = next_b = 1
    both = either = np.int64(0)
    left = np.int64(1)
    # Like pycocotools, the scan ends where runs of both end and runs of no length follow.
    while left > 0:
        step = min(left_a, left_b)
        if in_a or in_b:
            either += step
        if in_a and in_b:
            both += step
        left_a -= step
        left_b -= step
        if left_a == 0 and next_a < len(a):
            left_a = a[next_a] - a[next_a - 1]
            next_a += 1
            in_a = not in_a
        if left_b == 0 and next_b < len(b):
            left_b = b[next_b] - b[next_b - 1]
            next_b += 1
            in_b = not in_b
        left = left_a + left_b
    return both / either if both else 0.0


UNDECIDED = 2
"""Pixel so close to the threshold that rounding decides."""


@_compiled
def fill_windows(masks, lowest, highest, x, y, x_offset, y_offset, pixels):
    """Interpolate masks on the pixels of their windows, column by column.

    Args:
        masks: ``(N, M, M)`` float32.
        lowest: ``(N,)`` float32 bound below which a pixel is outside.
        highest: ``(N,)`` float32 bound from which on it is inside.
        x: cells and weights of the columns of all windows, see ``_Axis``.
        y: the same of the rows.
        x_offset: ``(N + 1,)`` first column of each window.
        y_offset: ``(N + 1,)`` first row of each window.
        pixels: ``(P,)`` uint8 to fill: 0 outside, 1 inside, else ``UNDECIDED``.

    Returns:
        ``(N,)`` number of undecided pixels.
    """
    x_cell, x_weight = x
    y_cell, y_weight = y
    M = masks.shape[1]
    one = np.float32(1)
    undecided = np.zeros(len(masks), np.int64)
    tallest = 0
    for i in range(len(masks)):
        tallest = max(tallest, y_offset[i + 1] - y_offset[i])
    # The mask on the rows of the window, with cells without weight at either end. The last row and
    # the first column of a window are blank.
    on_rows = np.zeros((M + 2, tallest), np.float32)
    place = 0
    for i in range(len(masks)):
        low, high = lowest[i], highest[i]
        first_row = y_offset[i]
        height = y_offset[i + 1] - first_row - 1
        for v in range(height):
            top, weight = y_cell[first_row + v], y_weight[first_row + v]
            for k in range(M):
                above = masks[i, top, k] if top >= 0 else np.float32(0)
                below = masks[i, top + 1, k] if top + 1 < M else np.float32(0)
                on_rows[k + 1, v] = (one - weight) * above + weight * below
        pixels[place : place + height + 1] = 0
        place += height + 1
        number = 0
        for u in range(x_offset[i] + 1, x_offset[i + 1]):
            weight = x_weight[u]
            rest = one - weight
            before, after = on_rows[x_cell[u] + 1], on_rows[x_cell[u] + 2]
            column = pixels[place : place + height + 1]
            for v in range(height):
                value = rest * before[v] + weight * after[v]
                inside = value >= high
                near = (value >= low) & ~inside
                column[v] = np.uint8(inside) + (np.uint8(near) << 1)
                number += near
            column[height] = 0
            place += height + 1
        undecided[i] = number
    return undecided


@_compiled
def changes(pixels, bounds):
    """Return where the pixels of each window change, counted from its first one.

    Args:
        pixels: ``(P,)`` uint8, 0 or 1.
        bounds: ``(N + 1,)`` first pixel of each window.

    Returns:
        The places, window after window, and ``(N,)`` their numbers.
    """
    numbers = np.zeros(len(bounds) - 1, np.int64)
    for i in range(len(numbers)):
        window = pixels[bounds[i] : bounds[i + 1]]
        number = 0
        for place in range(1, len(window)):
            number += window[place] != window[place - 1]
        numbers[i] = number
    places = np.empty(numbers.sum(), np.int64)
    end = 0
    for i in range(len(numbers)):
        window = pixels[bounds[i] : bounds[i + 1]]
        for place in range(1, len(window)):
            if window[place] != window[place - 1]:
                places[end] = place
                end += 1
    return places, numbers
