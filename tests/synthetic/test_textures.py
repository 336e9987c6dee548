import numpy as np
import pytest

from d2_seesaw.synthetic.glyphs import PATTERNS, background, surface_pattern


def test_background_has_the_requested_size():
    assert background(np.random.default_rng(0), 48, 80, 0.5).shape == (48, 80, 3)


def test_contrast_zero_gives_gray_without_texture():
    picture = background(np.random.default_rng(0), 48, 48, 0.0)
    np.testing.assert_allclose(picture, picture[0, 0, 0], atol=1e-3)


def test_contrast_adds_texture_beyond_grain():
    pictures = [background(np.random.default_rng(seed), 48, 48, 0.6) for seed in range(20)]
    coarse = [p.reshape(6, 8, 6, 8, 3).mean(axis=(1, 3, 4)) for p in pictures]
    assert np.mean([c.std() for c in coarse]) > 6


@pytest.mark.parametrize("pattern", PATTERNS[1:])
def test_patterns_show_both_colors(pattern):
    share = surface_pattern(pattern, 0.5, 0.0)
    assert 0.1 < share.mean() < 0.9
    assert (share.min(), share.max()) == (0, 1)


def test_patterns_differ():
    assert len({surface_pattern(pattern, 0.5, 0.0).tobytes() for pattern in PATTERNS}) == 5
