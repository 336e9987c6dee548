"""JSON's decimal numbers to float64, many at a time.

Shapes in this module:
    B: bytes of the text
    X: numbers
"""

import json
from collections.abc import Sequence

import numpy as np

_COMMA, _SPACE, _DOT, _ZERO = (np.uint8(ord(sign)) for sign in ", .0")
_LONGEST = 9  # characters of what is parsed as an array


def parse_decimals(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Parse numbers with commas in between, such as "12.5, 3,100.25".

    Numbers without a sign and with at most two decimals are parsed as arrays, others by ``json``.
    The result is the same: the nearest float64.

    Args:
        texts: each with at least one number.

    Returns:
        ``(X,)`` numbers of all texts, and for each text how many there are up to its end.

    Raises:
        ValueError: something is no number in JSON.
    """
    if not texts:
        return np.zeros(0), np.zeros(0, np.int64)
    text = (",".join(texts) + ",").encode()
    characters = np.frombuffer(text, np.uint8)
    ends = np.flatnonzero(characters == _COMMA)
    starts = np.concatenate([[0], ends[:-1] + 1])
    starts += characters[starts] == _SPACE
    values, is_plain = _plain(characters, starts, ends)
    odd = np.flatnonzero(~is_plain)
    bounds = zip(starts[odd].tolist(), ends[odd].tolist(), strict=True)
    odd_text = b",".join(text[start:end] for start, end in bounds)
    values[odd] = json.loads(b"[%s]" % odd_text, parse_int=float)
    lengths = np.cumsum([len(text) + 1 for text in texts])  # of ASCII, or json has refused it
    return values, np.searchsorted(ends, lengths - 1) + 1


def _plain(
    characters: np.ndarray, starts: np.ndarray, ends: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Numbers with up to two decimals, and ``(X,)`` whether a number is such a one."""
    length = ends - starts
    decimals = np.zeros(len(ends), np.uint8)
    for places in (1, 2):
        before = characters.take(ends - places - 1, mode="clip")  # of the first, beyond the text
        decimals[(length > places + 1) & (before == _DOT)] = places
    is_plain = (length > 0) & (length <= _LONGEST)
    # JSON knows no 01.
    is_plain &= (characters[starts] != _ZERO) | (length == decimals + (decimals > 0) + 1)
    whole, power = np.zeros(len(ends), np.int32), np.ones(len(ends), np.int32)
    for place in range(min(_LONGEST, int(length.max()))):
        digit = characters[ends - place - 1] - _ZERO  # of bytes: below zero is above nine
        counts = place < length
        if place in (1, 2):
            counts &= decimals != place
        is_plain &= (digit <= 9) | ~counts
        whole += digit * power * counts
        power *= np.where(counts, np.int32(10), np.int32(1))
    # A quotient of two exact numbers is rounded once, as the decimal number itself would be.
    return whole / np.array([1, 10, 100])[decimals], is_plain
