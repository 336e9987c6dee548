import pytest
import torch
from detectron2.layers import ROIAlign
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes

from d2_seesaw.modeling.roi_heads import RowROIPooler
from tests.modeling.roi_heads import parts

OPTIONS = {"scales": [1 / 4, 1 / 8], "canonical_box_size": 64}


def refuse(*_):
    raise AssertionError("called")


@pytest.mark.parametrize("pooler_type", ["ROIAlign", "ROIAlignV2"])
@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_training_gives_detectron2s_values_and_gradients(
    maps, boxes, pooler_type, sampling_ratio, monkeypatch
):
    options = OPTIONS | {"sampling_ratio": sampling_ratio, "pooler_type": pooler_type}
    expected = ROIPooler(7, **options)(maps, boxes)
    upstream = torch.randn_like(expected)
    known = torch.autograd.grad(expected, maps, upstream)
    monkeypatch.setattr(ROIAlign, "forward", refuse)
    pooled = RowROIPooler(7, **options)(maps, boxes)
    torch.testing.assert_close(pooled, expected, atol=1e-5, rtol=1e-5)
    gradients = torch.autograd.grad(pooled, maps, upstream)
    torch.testing.assert_close(gradients, known, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("case", ["no gradient", "half", "ROIPool", "huge"])
def test_other_cases_are_detectron2s_bit_for_bit(maps, boxes, case):
    pooler_type = "ROIPool" if case == "ROIPool" else "ROIAlignV2"
    options = OPTIONS | {"sampling_ratio": 0, "pooler_type": pooler_type}
    if case == "no gradient":
        maps = [m.detach() for m in maps]
    if case == "half":
        maps = [m.bfloat16().float().half() for m in maps]
    if case == "huge":
        boxes[0].tensor[0] *= 1000
    pooled = RowROIPooler(7, **options)(maps, boxes)
    assert torch.equal(pooled, ROIPooler(7, **options)(maps, boxes))


def test_a_batch_without_boxes_gives_the_maps_a_gradient(maps):
    options = OPTIONS | {"sampling_ratio": 0, "pooler_type": "ROIAlignV2"}
    pooled = RowROIPooler(7, **options)(maps, [Boxes(torch.zeros(0, 4)) for _ in range(3)])
    assert pooled.shape == (0, parts.CHANNELS, 7, 7)
    assert not any(g.any() for g in torch.autograd.grad(pooled.sum(), maps))
