import itertools

import numpy as np
import pytest

from d2_seesaw.data.pixel_layout import channels_first, contiguous

IMAGE = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
VIEWS = {
    f"rows {rows}, columns {columns}, channels {channels}": IMAGE[::rows, ::columns, ::channels]
    for rows, columns, channels in itertools.product((1, -1, 2), (1, -1, -2), (1, -1))
}
VIEWS |= {
    "transposed": IMAGE.transpose(1, 0, 2),
    "float": IMAGE.astype(np.float32)[:, ::-1],
    "one channel": IMAGE[:, ::-1, :1],
    "four channels": np.concatenate([IMAGE, IMAGE[..., :1]], axis=2)[::-1],
    "empty": IMAGE[:0],
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS.keys())
def test_copies_equal_the_image_and_are_contiguous(view):
    before = view.copy()
    copy, planes = contiguous(view), channels_first(view)
    np.testing.assert_array_equal(copy, view)
    np.testing.assert_array_equal(planes, view.transpose(2, 0, 1))
    assert copy.flags.c_contiguous
    assert planes.flags.c_contiguous
    assert (copy.dtype, planes.dtype) == (view.dtype, view.dtype)
    assert not np.shares_memory(planes, IMAGE)
    np.testing.assert_array_equal(view, before)


def test_contiguous_images_are_not_copied():
    assert contiguous(IMAGE) is IMAGE
