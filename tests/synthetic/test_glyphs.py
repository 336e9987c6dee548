import numpy as np
import pytest

from d2_seesaw.synthetic.glyphs import glyph_of, to_bgr


def test_names_of_1203_categories_are_unique():
    assert len({glyph_of(c).name for c in range(1203)}) == 1203


def test_no_two_of_1203_glyphs_look_alike():
    looks = set()
    for glyph in map(glyph_of, range(1203)):
        outline = glyph.outline.round(6).tobytes()
        looks.add((outline, glyph.color, glyph.accent, glyph.pattern, glyph.pattern_period))
    assert len(looks) == 1203


def test_the_demos_categories_share_shapes_and_colors():
    glyphs = [glyph_of(c) for c in range(20)]
    assert len({g.shape for g in glyphs}) < 20
    assert len({g.color for g in glyphs}) < 20
    assert len({(g.shape, g.color) for g in glyphs}) == 20


@pytest.mark.parametrize("category", [0, 17, 1202])
def test_outlines_fill_the_unit_square(category):
    outline = glyph_of(category).outline
    assert np.abs(outline).max() == pytest.approx(1.0)
    np.testing.assert_allclose(outline.max(axis=0), -outline.min(axis=0))


def test_colors_are_bgr():
    np.testing.assert_allclose(to_bgr(0.0, 1.0, 1.0), [0, 0, 255])
    np.testing.assert_allclose(to_bgr(1 + 2 / 3, 1.0, 2.0), [255, 0, 0], atol=1e-4)
