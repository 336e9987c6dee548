import pytest
import torch
from detectron2.modeling.meta_arch import GeneralizedRCNN
from torch import nn

from d2_seesaw.inference.roi_masks import _infers_as_detectron2
from d2_seesaw.modeling import LabelMapRCNN


class Backbone(nn.Module):
    size_divisibility = 32
    padding_constraints = {}  # noqa: RUF012

    def forward(self, x):
        return {"p2": x}


class Branch(nn.Module):
    num_classes, ignore_value = 7, 255


@pytest.fixture
def model():
    heads = nn.Module()
    heads.semantic_head = Branch()
    return LabelMapRCNN(
        backbone=Backbone(),
        proposal_generator=None,
        roi_heads=heads,
        pixel_mean=[1.0, 2.0, 3.0],
        pixel_std=[2.0, 2.0, 2.0],
    )


def inputs(*sizes):
    return [
        {
            "image": torch.rand(3, *size),
            "sem_seg": torch.randint(0, 7, size),
            "file_name": f"{i}.jpg",
        }
        for i, size in enumerate(sizes)
    ]


def test_maps_are_padded_like_the_images_with_the_ignored_label(model):
    given = inputs((40, 70), (64, 33))
    given[0]["sem_seg"][:3] = 255
    images = model.preprocess_image(given)
    assert images.sem_seg.shape == (2, 64, 96) == images.tensor.shape[:1] + images.tensor.shape[2:]
    for x, (height, width), labels in zip(given, images.image_sizes, images.sem_seg, strict=True):
        assert torch.equal(labels[:height, :width], x["sem_seg"])
        padding = torch.ones_like(labels, dtype=torch.bool)
        padding[:height, :width] = False
        assert (labels[padding] == 255).all()
    plain = GeneralizedRCNN.preprocess_image(model, given)
    assert torch.equal(images.tensor, plain.tensor)


def test_inference_and_a_model_without_the_branch_need_no_maps(model):
    given = [{"image": torch.rand(3, 32, 32)}]
    assert not hasattr(model.eval().preprocess_image(given), "sem_seg")
    model.train().roi_heads.semantic_head = None
    assert not hasattr(model.preprocess_image(given), "sem_seg")


def test_evaluators_get_masks_on_boxes(model):
    assert _infers_as_detectron2(model)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sem_seg": None}, r"0\.jpg has no label map .*semantic_head=null"),
        ({"sem_seg": torch.zeros(8, 9)}, r"map of 0\.jpg is \(8, 9\), its image is \(32, 48\)"),
        (
            {"sem_seg": torch.full((32, 48), 7)},
            r"0\.jpg contains 7; expected classes in \[0, 6\] or 255 .* grayscale",
        ),
    ],
)
def test_unusable_maps_are_reported(model, change, message):
    (given,) = inputs((32, 48))
    with pytest.raises(ValueError, match=message):
        model.preprocess_image([given | change])
