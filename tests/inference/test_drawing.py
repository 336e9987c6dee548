import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances

from d2_seesaw.inference import draw_instances, draw_label_map, drawing_metadata
from d2_seesaw.inference.drawing import enlargement, palette


def test_all_colors_of_the_palette_differ():
    assert len(set(palette(60))) == 60
    # Three colors are evenly spaced around the hues: red, green and blue.
    assert [int(np.argmax(color)) for color in palette(3)] == [0, 1, 2]


def test_classes_have_the_colors_of_the_checkpoint_or_of_the_palette():
    given = drawing_metadata(["a", "b"], [[1, 2, 3], [4, 5, 6]])
    assert given.thing_colors == given.stuff_colors == [(1, 2, 3), (4, 5, 6)]
    assert drawing_metadata(["a", "b"]).thing_colors == palette(2)


@pytest.mark.parametrize(
    ("size", "factor"), [((100, 50), 2.0), ((100, 200), 1.0), ((300, 200), 1.0)]
)
def test_small_pictures_are_enlarged_to_the_short_side(size, factor):
    assert enlargement(size, 100) == factor


def test_masks_are_drawn_at_their_place_in_the_color_of_their_class():
    mask = torch.zeros(1, 80, 80, dtype=torch.bool)
    mask[0, 10:40, 10:70] = True
    instances = Instances(
        (80, 80),
        pred_boxes=Boxes([[10, 10, 70, 40]]),
        pred_classes=torch.tensor([1]),
        scores=torch.tensor([0.9]),
        pred_masks=mask,
    )
    names = drawing_metadata(["a", "b"], [[0, 255, 0], [255, 0, 0]])
    drawn = draw_instances(np.zeros((80, 80, 3), np.uint8), instances, names)
    assert drawn.shape == (80, 80, 3)
    inside = drawn[28:38, 30:60].reshape(-1, 3).mean(0)
    assert inside[0] > 120
    assert inside[0] > 3 * max(inside[1], inside[2])
    assert not drawn[62:].any()
    assert not drawn[:, :5].any()


def test_label_maps_are_drawn_over_the_picture_half_transparently():
    labels = np.zeros((60, 90), np.int64)
    labels[:, 45:] = 2
    image = np.full((60, 90, 3), 100, np.uint8)
    names = drawing_metadata(["", "x", ""], [[0, 0, 0], [9, 9, 9], [200, 0, 40]])
    drawn = draw_label_map(image, labels, names, 2.0)
    assert drawn.shape == (120, 180, 3)
    assert np.abs(drawn[10:50, 20:70].astype(int) - 50).max() <= 2
    assert np.abs(drawn[10:50, 110:160].astype(int) - [150, 50, 70]).max() <= 2
