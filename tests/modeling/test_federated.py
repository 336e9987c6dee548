import numpy as np
import pytest
import torch
from detectron2.data import DatasetMapper
from detectron2.modeling.meta_arch import GeneralizedRCNN
from PIL import Image
from torch import nn

from d2_seesaw.modeling import FederatedRCNN

C = 9


class Backbone(nn.Module):
    size_divisibility = 32
    padding_constraints = {}  # noqa: RUF012

    def forward(self, x):
        return {"p2": x}


class Heads(nn.Module):
    num_classes = C

    def forward(self, images, features, proposals, targets):
        self.images = images
        return [], {}


@pytest.fixture
def model():
    return build(FederatedRCNN)


def build(cls):
    return cls(
        backbone=Backbone(),
        proposal_generator=None,
        roi_heads=Heads(),
        pixel_mean=[1.0, 2.0, 3.0],
        pixel_std=[2.0, 2.0, 2.0],
    )


def inputs(*ids):
    images = [
        {"image": torch.rand(3, 40, 50 + i), "file_name": f"{i}.png", "neg_category_ids": list(of)}
        for i, of in enumerate(ids)
    ]
    return [image | {"proposals": _Anywhere()} for image in images]


class _Anywhere:
    def to(self, device):
        return self


def test_one_based_ids_become_zero_based_classes(model):
    model(inputs([1, 9], [], [4]))
    classes = [c.tolist() for c in model.roi_heads.images.negative_classes]
    assert classes == [[0, 8], [], [3]]
    assert all(c.dtype == torch.int64 for c in model.roi_heads.images.negative_classes)


def test_given_negative_classes_take_precedence(model):
    own = {"negative_classes": [0, 2], "neg_category_ids": [7, 1000]}
    images = model.preprocess_image([image | own for image in inputs([])])
    assert images.negative_classes[0].tolist() == [0, 2]
    with pytest.raises(ValueError, match=rf"negative_classes of 0.png .* \[0, 9\), got {C}"):
        model.preprocess_image([image | {"negative_classes": [0, C]} for image in inputs([])])


def test_images_match_generalized_rcnn(model):
    batch = inputs([1], [2])
    images = model.preprocess_image(batch)
    expected = build(GeneralizedRCNN).preprocess_image(batch)
    torch.testing.assert_close(images.tensor, expected.tensor)
    assert images.image_sizes == expected.image_sizes == [(40, 50), (40, 51)]


def test_inference_needs_no_negatives(model):
    model.eval().preprocess_image([{"image": torch.rand(3, 40, 50)}])


def test_inputs_without_negatives_are_rejected(model):
    with pytest.raises(ValueError, match=r"7.png has no neg_category_ids: .* LVIS format"):
        model.preprocess_image([{"image": torch.rand(3, 40, 50), "file_name": "7.png"}])


@pytest.mark.parametrize("wrong", [0, C + 1])
def test_out_of_range_ids_are_rejected(model, wrong):
    with pytest.raises(ValueError, match=rf"of 1.png must be in \[1, 9\] .* got {wrong}"):
        model.preprocess_image(inputs([3], [2, wrong]))


def test_detectron2s_mapper_keeps_the_ids(model, tmp_path):
    Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save(tmp_path / "a.png")
    record = {
        "file_name": str(tmp_path / "a.png"),
        "height": 40,
        "width": 50,
        "neg_category_ids": [2, 5],
        "annotations": [],
    }
    mapper = DatasetMapper(is_train=True, augmentations=[], image_format="RGB")
    images = model.preprocess_image([mapper(record)])
    assert images.negative_classes[0].tolist() == [1, 4]
