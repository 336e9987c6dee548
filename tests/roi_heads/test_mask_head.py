import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads.mask_head import MaskRCNNConvUpsampleHead
from torch import nn

from d2_seesaw.layers import NormedConv2d, normed_mask_predictor
from d2_seesaw.roi_heads import MaskHeadWithPredictor

SHAPE = ShapeSpec(channels=8, width=14, height=14)
OPTIONS = {"num_classes": 3, "conv_dims": [8, 6]}


def test_with_a_plain_predictor_it_is_detectron2s_head():
    ours = MaskHeadWithPredictor(SHAPE, predictor=nn.Conv2d(6, 3, 1), **OPTIONS)
    host = MaskRCNNConvUpsampleHead(SHAPE, **OPTIONS)
    host.load_state_dict(ours.state_dict())
    x = torch.randn(2, 8, 14, 14)
    torch.testing.assert_close(ours.layers(x), host.layers(x))


def test_the_normalised_predictor_is_the_last_layer():
    head = MaskHeadWithPredictor(SHAPE, predictor=normed_mask_predictor(temperature=7.0), **OPTIONS)
    assert isinstance(head.predictor, NormedConv2d)
    x = torch.randn(2, 8, 14, 14)
    features = nn.Sequential(*list(head.children())[:-1])(x)
    weight = head.predictor.weight[:, :, 0, 0]
    weight = weight / (weight.norm(dim=1, keepdim=True) + 1e-6)
    features = 7.0 * features / (features.norm(dim=1, keepdim=True) + 1e-6)
    expected = torch.einsum("kc,nchw->nkhw", weight, features) + head.predictor.bias[:, None, None]
    torch.testing.assert_close(head.layers(x), expected)


def test_weights_have_the_names_and_shapes_of_the_plain_head():
    ours = MaskHeadWithPredictor(SHAPE, predictor=normed_mask_predictor(), **OPTIONS).state_dict()
    host = MaskRCNNConvUpsampleHead(SHAPE, **OPTIONS).state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in host.items()}


def test_a_predictor_that_does_not_fit_is_named():
    with pytest.raises(ValueError, match=r"6 channels to 9, .* needs 6 channels to 3 classes"):
        MaskHeadWithPredictor(SHAPE, predictor=nn.Conv2d(6, 9, 1), **OPTIONS)
