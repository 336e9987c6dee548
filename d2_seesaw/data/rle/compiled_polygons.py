"""Polygons as runs of pixels, compiled by numba. ``kernels.py`` chooses it.

The pixels are those of pycocotools, which draws an outline on a grid of a fifth of a pixel. Its
corners are the rounded coordinates. Along an edge, the longer side advances by one point of the
grid in a step, and the other side is rounded. Where the outline passes the center of a column of
pixels, the mask changes in that column. Only these places are computed here, without the points in
between.

Shapes in this module:
    N: objects
    P: polygons of all objects of a file
    X: coordinates of all of them
    E: runs of all masks
"""

from __future__ import annotations

import platform

import numba  # pyright: ignore[reportMissingImports]
import numpy as np

_compiled = numba.njit(cache=True, nogil=True)

# Compilers of other processors may fuse products and sums of pycocotools, which rounds differently.
EXACT = platform.machine().lower() in ("x86_64", "amd64")
"""Whether the pixels are known to be those of pycocotools on this processor."""

_FARTHEST = 2.0**18  # in pixels: products along an edge are then exact enough to be rounded alike
_MOST_PIXELS = 2**31
_BOX = 4  # numbers: pycocotools reads them as a box, if the first polygon has no more
_FEW = 16  # places in a column that are sorted by insertion


@_compiled
def _on_grid(coordinate):
    return np.int64(5 * coordinate + 0.5)  # cut off, also of negative numbers


@_compiled
def _columns(x_0, x_1, width):
    """Return the first column whose center an edge passes, and the end of these columns."""
    low, high = max(min(x_0, x_1), 0), max(x_0, x_1)
    return (low + 2) // 5, min((high + 2) // 5, width)


@_compiled
def most_runs(coordinates, coordinate_offsets, first, end, sizes):
    """Return ``(N,)`` bounds on the runs of objects, 0 where :func:`draw` must not draw them.

    These are objects without a polygon, with a box as the first one, or far outside of images.

    Args:
        coordinates: ``(X,)`` x and y in turn.
        coordinate_offsets: ``(P + 1,)`` first coordinate of each polygon.
        first: ``(N,)`` first polygon of each object.
        end: ``(N,)`` polygon after those of each object.
        sizes: ``(N, 2)`` heights and widths.
    """
    found = np.zeros(len(first), np.int64)
    for i in range(len(first)):
        height, width = np.int64(sizes[i, 0]), np.int64(sizes[i, 1])
        if first[i] >= end[i] or height < 1 or width < 1 or height * width >= _MOST_PIXELS:
            continue
        if coordinate_offsets[first[i] + 1] - coordinate_offsets[first[i]] <= _BOX:
            continue
        drawable = True
        number = np.int64(0)
        for polygon in range(first[i], end[i]):
            begin = coordinate_offsets[polygon]
            points = (coordinate_offsets[polygon + 1] - begin) // 2
            drawable &= points > 0
            before = 0.0 if points == 0 else coordinates[begin + 2 * points - 2]
            for k in range(begin, begin + 2 * points, 2):
                x = coordinates[k]
                near = abs(x) <= _FARTHEST and abs(coordinates[k + 1]) <= _FARTHEST
                if not (near and abs(before) <= _FARTHEST):  # NaN is not near
                    drawable = False
                    break
                column, stop = _columns(_on_grid(before), _on_grid(x), width)
                number += max(stop - column, 0)
                before = x
            number += 1
        if drawable:
            found[i] = number
    return found


@_compiled
def draw(coordinates, coordinate_offsets, first, end, sizes, places, ends_of_runs):
    """Write the ends of the runs of objects, whose polygons are merged, into ``ends_of_runs``.

    The last one is the number of pixels.

    Args:
        coordinates: as in :func:`most_runs`, and so on.
        coordinate_offsets: see there.
        first: see there.
        end: see there.
        sizes: see there.
        places: ``(N + 1,)`` first place for the ends of each object, which has one for each run
            that :func:`most_runs` allows. Objects without a place are not drawn.
        ends_of_runs: ``(E,)`` int64.

    Returns:
        ``(N,)`` numbers of runs.
    """
    numbers = np.zeros(len(first), np.int64)
    room = tallest = widest = np.int64(0)
    for i in range(len(first)):
        if places[i + 1] > places[i]:
            room = max(room, places[i + 1] - places[i])
            tallest = max(tallest, np.int64(sizes[i, 0]))
            widest = max(widest, min(np.int64(sizes[i, 1]), np.int64(_FARTHEST) + 1))
    rows = np.empty(room, np.int64)
    starts = np.zeros(widest + 2, np.int64)
    odd = np.zeros(tallest + 1, np.bool_)
    one, merged = np.empty(room, np.int64), np.empty(room, np.int64)
    for i in range(len(first)):
        if places[i + 1] == places[i]:
            continue
        height, width = np.int64(sizes[i, 0]), np.int64(sizes[i, 1])
        own = ends_of_runs[places[i] : places[i + 1]]
        number = np.int64(0)
        for polygon in range(first[i], end[i]):
            begin = coordinate_offsets[polygon]
            points = (coordinate_offsets[polygon + 1] - begin) // 2
            outline = coordinates[begin : begin + 2 * points]
            if polygon == first[i]:
                number = _changes(outline, height, width, rows, starts, odd, own)
                continue
            other = _changes(outline, height, width, rows, starts, odd, one)
            number = _union(own[:number], one[:other], merged)
            # A loop, because numba compiles an assignment of a slice for seconds.
            for k in range(number):
                own[k] = merged[k]
        own[number] = height * width
        numbers[i] = number + 1
    return numbers


@_compiled
def _changes(outline, height, width, rows, starts, odd, found):
    """Write the places at which a mask begins or ends into ``found``; return their number.

    Args:
        outline: x and y in turn.
        height: of the image.
        width: of the image.
        rows: memory for the changes of all columns.
        starts: zeros for each column; they are zeros again in the end.
        odd: False for each row and one more; likewise.
        found: places in the image, which is read column by column.
    """
    # Changes are sorted by column: those of each column are counted first. starts[c + 1] becomes
    # the number of changes before column c, and at last of those up to it.
    left, right = width, np.int64(0)
    x_0 = _on_grid(outline[-2])
    for k in range(0, len(outline), 2):
        x_1 = _on_grid(outline[k])
        column, stop = _columns(x_0, x_1, width)
        if column < stop:
            starts[column + 1] += 1
            starts[stop + 1] -= 1
            left, right = min(left, column), max(right, stop)
        x_0 = x_1
    change = total = np.int64(0)
    for column in range(left, right):
        change += starts[column + 1]
        starts[column + 1] = total
        total += change
    if left < right:
        starts[right + 1] = 0
    x_0, y_0 = _on_grid(outline[-2]), _on_grid(outline[-1])
    for k in range(0, len(outline), 2):
        x_1, y_1 = _on_grid(outline[k]), _on_grid(outline[k + 1])
        _pass(x_0, y_0, x_1, y_1, height, width, rows, starts)
        x_0, y_0 = x_1, y_1
    number = start = np.int64(0)
    for column in range(left, right):
        stop = starts[column + 1]
        starts[column + 1] = 0
        number = _emit(rows[start:stop], column * height, odd, found, number)
        start = stop
    # The image ends there anyway.
    return number - (number > 0 and found[number - 1] == height * width)


@_compiled
def _pass(x_0, y_0, x_1, y_1, height, width, rows, starts):
    """Write the rows in which an edge passes the centers of columns to ``rows``."""
    column, stop = _columns(x_0, x_1, width)
    if column >= stop:
        return
    wide, tall = abs(x_1 - x_0), abs(y_1 - y_0)
    if wide >= tall:
        if x_0 > x_1:
            x_0, y_0, x_1, y_1 = x_1, y_1, x_0, y_0
        slope = (y_1 - y_0) / wide
        # Of the two points beside the center, the upper one counts.
        x_0 -= y_1 < y_0
        for u in range(column, stop):
            y = np.int64(y_0 + slope * (5 * u + 2 - x_0) + 0.5)
            rows[starts[u + 1]] = _row(y, height)
            starts[u + 1] += 1
        return
    if y_0 > y_1:
        x_0, y_0, x_1, y_1 = x_1, y_1, x_0, y_0
    for u in range(column, stop):
        step = _last_step(x_0, x_1, tall, 5 * u + 3)
        rows[starts[u + 1]] = _row(y_0 + step, height)
        starts[u + 1] += 1


@_compiled
def _last_step(x_0, x_1, steps, after):
    """Return the last of the steps down an edge before x, rounded, passes from or to ``after``."""
    slope, rising = (x_1 - x_0) / steps, x_1 > x_0
    step = np.int64((after - 0.5 - x_0) / slope)  # at most a step off
    while (x_0 + slope * step + 0.5 >= after) == rising:
        step -= 1
    while (x_0 + slope * (step + 1) + 0.5 >= after) != rising:
        step += 1
    return step


@_compiled
def _row(y, height):
    """Return the first row of pixels whose center is not above a point of the grid."""
    return min((max(y, 0) + 2) // 5, height)


@_compiled
def _emit(rows, first_place, odd, found, number):
    """Append the changes of a column to ``found``, from top to bottom; return the new number.

    Two changes at one place cancel, also with the last one of the column before.
    """
    if len(rows) <= _FEW:
        for k in range(1, len(rows)):
            row = rows[k]
            m = k
            while m and rows[m - 1] > row:
                rows[m] = rows[m - 1]
                m -= 1
            rows[m] = row
        for row in rows:
            number = _toggle(first_place + row, found, number)
        return number
    low, high = rows[0], rows[0]
    for row in rows:
        odd[row] = not odd[row]
        low, high = min(low, row), max(high, row)
    for row in range(low, high + 1):
        if odd[row]:
            odd[row] = False
            number = _toggle(first_place + row, found, number)
    return number


@_compiled
def _toggle(place, found, number):
    if number and found[number - 1] == place:
        return number - 1
    found[number] = place
    return number + 1


@_compiled
def _union(a, b, found):
    """Write the changes of the union of two masks into ``found``; return their number."""
    i = j = number = 0
    in_a = in_b = inside = False
    while i < len(a) or j < len(b):
        next_a = a[i] if i < len(a) else _MOST_PIXELS
        next_b = b[j] if j < len(b) else _MOST_PIXELS
        if next_a <= next_b:
            in_a = not in_a
            i += 1
        if next_b <= next_a:
            in_b = not in_b
            j += 1
        if (in_a or in_b) != inside:
            inside = not inside
            found[number] = min(next_a, next_b)
            number += 1
    return number
