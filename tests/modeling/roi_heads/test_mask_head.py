import pytest
import torch
from detectron2.layers import Conv2d as HostConv2d
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads.mask_head import (
    BaseMaskRCNNHead,
    MaskRCNNConvUpsampleHead,
    mask_rcnn_loss,
)
from detectron2.structures import Instances
from torch import nn

from d2_seesaw.layers import (
    NormedConv2d,
    mask_predictor,
    normed_mask_predictor,
    sync_batch_norm,
)
from d2_seesaw.modeling.roi_heads import AveragedMaskHeads, MaskHeadWithPredictor
from tests.modeling.roi_heads.parts import positives
from tests.support.operators import OperatorLog

SHAPE = ShapeSpec(channels=8, width=14, height=14)
OPTIONS = {"num_classes": 3, "conv_dims": [8, 6]}


def test_with_a_plain_predictor_it_matches_detectron2s_head():
    ours = MaskHeadWithPredictor(SHAPE, predictor=nn.Conv2d(6, 3, 1), **OPTIONS)
    host = MaskRCNNConvUpsampleHead(SHAPE, **OPTIONS)
    host.load_state_dict(ours.state_dict())
    x = torch.randn(2, 8, 14, 14)
    torch.testing.assert_close(ours.layers(x), host.layers(x))


def test_the_normalized_predictor_is_the_last_layer():
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


def test_an_inconsistent_predictor_is_reported():
    with pytest.raises(ValueError, match=r"6 channels to 9, .* needs 6 channels to 3 classes"):
        MaskHeadWithPredictor(SHAPE, predictor=nn.Conv2d(6, 9, 1), **OPTIONS)


PREDICTORS = {
    "plain": mask_predictor(std=0.5),
    "normalized": normed_mask_predictor(),
    "the host's layer": HostConv2d(6, 3, 1),
}
every_predictor = pytest.mark.parametrize("predictor", PREDICTORS.values(), ids=PREDICTORS.keys())


@every_predictor
def test_losses_and_gradients_match_those_from_all_channels(storage, predictor):
    head = MaskHeadWithPredictor(SHAPE, predictor=predictor, **OPTIONS, loss_weight=2.0)
    images = positives([2, 0], [], [1, 2, 2])
    x = torch.randn(5, 8, 14, 14, requires_grad=True)
    parameters = [x, *head.parameters()]
    expected = 2.0 * mask_rcnn_loss(head.layers(x), images)
    loss = head(x, images)["loss_mask"]
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(
        torch.autograd.grad(loss, parameters), torch.autograd.grad(expected, parameters)
    )
    assert storage.latest()["mask_rcnn/accuracy"][0] > 0


@every_predictor
def test_predictions_match_those_from_all_channels(predictor):
    head = MaskHeadWithPredictor(SHAPE, predictor=predictor, **OPTIONS).eval()
    x = torch.randn(5, 8, 14, 14)
    ours = [Instances((64, 64), pred_classes=torch.tensor(c)) for c in ([2, 0, 1], [], [1, 1])]
    ours[1].pred_classes = ours[1].pred_classes.long()
    expected = [Instances((64, 64), pred_classes=i.pred_classes) for i in ours]
    BaseMaskRCNNHead.forward(head, x, expected)
    assert head(x, ours) is ours
    for o, e in zip(ours, expected, strict=True):
        torch.testing.assert_close(o.pred_masks, e.pred_masks)


@pytest.mark.parametrize("predictor", [mask_predictor(), normed_mask_predictor()])
def test_masks_of_all_1203_classes_are_never_in_memory(storage, predictor):
    head = MaskHeadWithPredictor(SHAPE, predictor=predictor, num_classes=1203, conv_dims=[8, 6])
    images = positives([5, 1202, 0, 7] * 4)
    x = torch.randn(16, 8, 14, 14)
    one_mask_each = 16 * 28 * 28 * 4
    with OperatorLog() as log:
        head(x, images)["loss_mask"].backward()
        head.eval()(x, [Instances((64, 64), pred_classes=images[0].gt_classes)])
    assert log.largest <= 9 * one_mask_each  # the features have 8 channels


@pytest.mark.parametrize("predictor", [mask_predictor(), normed_mask_predictor()])
def test_class_agnostic_masks_need_no_class(storage, predictor):
    head = MaskHeadWithPredictor(SHAPE, predictor=predictor, num_classes=1, conv_dims=[8, 6])
    x = torch.randn(2, 8, 14, 14)
    images = positives([2, 4])
    torch.testing.assert_close(head(x, images)["loss_mask"], mask_rcnn_loss(head.layers(x), images))
    found = Instances((64, 64), pred_classes=torch.tensor([2, 4]))
    head.eval()(x, [found])
    torch.testing.assert_close(found.pred_masks, head.layers(x).sigmoid())


@pytest.mark.parametrize(
    "options", [*({"predictor": p} for p in PREDICTORS.values()), {"conv_norm": sync_batch_norm()}]
)
def test_no_positives_give_zero_loss_zero_gradients_and_no_masks(storage, options):
    head = MaskHeadWithPredictor(SHAPE, **{"predictor": mask_predictor()} | OPTIONS | options)
    head.zero_grad()
    loss = head(torch.zeros(0, 8, 14, 14), positives([], []))["loss_mask"]
    loss.backward()
    assert loss == 0
    assert all((p.grad == 0).all() for p in head.parameters())
    nothing = Instances((64, 64), pred_classes=torch.zeros(0, dtype=torch.int64))
    head.eval()(torch.zeros(0, 8, 14, 14), [nothing])
    assert nothing.pred_masks.shape == (0, 1, 28, 28)


def test_the_plain_predictor_is_initialized_as_in_detectron2():
    torch.manual_seed(0)
    predictor = mask_predictor()(256, 1203)
    assert predictor.weight.shape == (1203, 256, 1, 1)
    assert predictor.weight.std().item() == pytest.approx(0.001, rel=0.01)
    assert not predictor.bias.any()


def three_heads():
    return [
        MaskHeadWithPredictor(SHAPE, predictor=mask_predictor(std=2.0), **OPTIONS) for _ in range(3)
    ]


def test_several_heads_predict_the_mean_of_their_sigmoids():
    heads = three_heads()
    averaged = AveragedMaskHeads(heads).eval()
    x = torch.randn(3, 8, 14, 14)
    classes = torch.tensor([2, 0, 1])
    found = [Instances((64, 64), pred_classes=c) for c in classes.split([1, 2])]
    averaged(x, found)
    expected = sum(h.layers(x)[torch.arange(3), classes].sigmoid() for h in heads) / 3
    torch.testing.assert_close(torch.cat([f.pred_masks for f in found])[:, 0], expected)
    assert [len(f.pred_masks) for f in found] == [1, 2]


def test_several_heads_cannot_be_trained_together():
    with pytest.raises(RuntimeError, match="trained one by one"):
        AveragedMaskHeads(three_heads())(torch.zeros(0, 8, 14, 14), [])
