"""Functions for encoded masks, compiled by numba. ``kernels.py`` chooses them.

Shapes in this module:
    N: masks
    M: edge of a mask on its box
    B: bytes of all counts
    P: pixels of all windows
    C: pairs of masks
"""

from __future__ import annotations

import numba  # pyright: ignore[reportMissingImports]
import numpy as np

_compiled = numba.njit(cache=True, nogil=True)


@_compiled
def _decompress(counts, start, end, runs):
    """Write the run lengths of compressed counts into ``runs``; return their number."""
    number = 0
    place = start
    while place < end:
        value = np.int64(0)
        shift = 0
        bits = np.int64(0)
        while place < end:
            bits = np.int64(counts[place]) - 48
            value |= (bits & 31) << shift
            shift += 5
            place += 1
            if not bits & 32:
                break
        if bits & 16:
            value |= np.int64(-1) << shift
        if number > 2:
            value += runs[number - 2]
        runs[number] = value
        number += 1
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
        area = number = value = earlier = np.int64(0)
        shift = 0
        for place in range(starts[i], ends[i]):
            bits = np.int64(counts[place]) - 48
            value |= (bits & 31) << shift
            shift += 5
            if bits & 32:
                continue
            if bits & 16:
                value |= np.int64(-1) << shift
            # As in _decompress. The runs of the foreground depend on one another alone.
            if number % 2:
                if number > 2:
                    value += earlier
                earlier = value
                area += value
            number += 1
            value = np.int64(0)
            shift = 0
        found[i] = area
    return found


@_compiled
def ious(counts, starts, ends, sizes, number, counts_2, starts_2, ends_2, sizes_2, others):
    """Return ``(C,)`` IoUs of each mask with its others, those of pycocotools bit for bit.

    Args:
        counts: ``(B,)`` uint8, compressed counts.
        starts: ``(N,)`` first byte of each mask.
        ends: ``(N,)`` byte after each mask.
        sizes: ``(N, 2)`` heights and widths.
        number: ``(N,)`` others of each mask.
        counts_2: as ``counts``, for the other masks, and so on.
        starts_2: see there.
        ends_2: see there.
        sizes_2: see there.
        others: ``(C,)`` places of the others, mask by mask.
    """
    found = np.zeros(len(others))
    runs = np.zeros((ends - starts).max() if len(starts) else 0, np.int64)
    a = np.zeros((len(runs) // 2 + 1, 2), np.int64)
    # All others as intervals, because each has several masks to be compared with.
    first = np.zeros(len(starts_2) + 1, np.int64)
    for j in range(len(starts_2)):
        first[j + 1] = first[j] + (ends_2[j] - starts_2[j]) // 2 + 1
    runs_2 = np.zeros((ends_2 - starts_2).max() if len(starts_2) else 0, np.int64)
    b = np.zeros((first[-1], 2), np.int64)
    number_2 = np.zeros(len(starts_2), np.int64)
    area_2 = np.zeros(len(starts_2), np.int64)
    for j in range(len(starts_2)):
        length = _decompress(counts_2, starts_2[j], ends_2[j], runs_2)
        number_2[j], area_2[j] = _intervals(runs_2, length, b[first[j] :])
    pair = 0
    for i in range(len(starts)):
        length = _decompress(counts, starts[i], ends[i], runs)
        intervals, area = _intervals(runs, length, a)
        for _ in range(number[i]):
            j = others[pair]
            if sizes[i, 0] != sizes_2[j, 0] or sizes[i, 1] != sizes_2[j, 1]:
                found[pair] = -1.0
            elif intervals < 0 or number_2[j] < 0:
                length_2 = _decompress(counts_2, starts_2[j], ends_2[j], runs_2)
                found[pair] = _iou(runs, length, runs_2, length_2)
            else:
                both = _intersection(a, intervals, b[first[j] :], number_2[j])
                if both:
                    found[pair] = both / (area + area_2[j] - both)
            pair += 1
    return found


@_compiled
def _intervals(runs, length, intervals):
    """Write begin and end of the runs of a mask into ``intervals``; return number and area.

    The number is -1 if a run has no length, but the first.
    """
    number = area = place = np.int64(0)
    for k in range(length):
        if k and runs[k] == 0:
            return np.int64(-1), area
        if k % 2:
            intervals[number, 0] = place
            intervals[number, 1] = place + runs[k]
            number += 1
            area += runs[k]
        place += runs[k]
    return number, area


@_compiled
def _intersection(a, a_number, b, b_number):
    both = np.int64(0)
    if a_number == 0 or b_number == 0:
        return both
    if a[a_number - 1, 1] <= b[0, 0] or b[b_number - 1, 1] <= a[0, 0]:
        return both
    k = m = 0
    while k < a_number and m < b_number:
        a_end, b_end = a[k, 1], b[m, 1]
        both += max(np.int64(0), min(a_end, b_end) - max(a[k, 0], b[m, 0]))
        k += a_end <= b_end
        m += b_end <= a_end
    return both


@_compiled
def _iou(a, a_number, b, b_number):
    if a_number == 0 or b_number == 0:
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
        if left_a == 0 and next_a < a_number:
            left_a = a[next_a]
            next_a += 1
            in_a = not in_a
        if left_b == 0 and next_b < b_number:
            left_b = b[next_b]
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
