import json
from pathlib import Path

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.structures import BitMasks, Boxes, Instances

from d2_seesaw.modeling.roi_heads import MaskIoUHead
from d2_seesaw.modeling.roi_heads.mask_scoring import mask_iou_targets
from tests.modeling.roi_heads import mask_iou_case as case

GOLDEN = Path(__file__).parents[2] / "golden" / "mask_iou_head_mmdet_3_3_0.json"
MMDET = json.loads(GOLDEN.read_text())
C = case.C


def head(num_classes=C, **options):
    return MaskIoUHead(
        ShapeSpec(channels=case.CHANNELS, height=14, width=14),
        num_classes=num_classes,
        conv_dims=[case.CONV_DIM] * 4,
        fc_dims=[case.FC_DIM] * 2,
        **options,
    )


def as_in_mmdet(**options):
    ours = head(**options)
    ours.load_state_dict(case.weights({k: v.shape for k, v in ours.state_dict().items()}))
    return ours


def recorded_targets(threshold):
    given = case.inputs()
    masks = BitMasks(given.masks)[given.matched]
    image = Instances((case.SIZE,) * 2, proposal_boxes=Boxes(given.boxes), gt_masks=masks)
    return mask_iou_targets(given.logits, [image], threshold=threshold)


def test_weights_have_mmdets_names_and_shapes():
    ours = {k: list(v.shape) for k, v in head().state_dict().items()}
    assert ours == MMDET["parameters"]


def test_predictions_match_mmdet():
    given, ours = case.inputs(), as_in_mmdet()
    ious = ours(given.features, given.logits)
    expected = torch.tensor(MMDET["ious"])
    assert expected.std() > 0.5
    torch.testing.assert_close(ious, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("threshold", [0.0, 0.5])
def test_targets_match_mmdet(threshold):
    expected = torch.tensor(MMDET[f"threshold {threshold}"]["targets"])
    assert expected.std() > 0.1
    torch.testing.assert_close(recorded_targets(threshold), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("threshold", [0.0, 0.5])
def test_loss_and_gradients_match_mmdet(threshold):
    given, ours, expected = case.inputs(), as_in_mmdet(), MMDET[f"threshold {threshold}"]
    x, logits = given.features.requires_grad_(), given.logits.requires_grad_()
    loss = ours.loss(ours(x, logits, given.classes), recorded_targets(threshold))
    loss.backward()
    assert loss.item() == pytest.approx(expected["loss"], rel=1e-4)
    for tensor, name in ((x, "feature_gradient"), (logits, "logit_gradient")):
        sums = tensor.grad.abs().sum(dim=(1, 2, 3))
        torch.testing.assert_close(sums, torch.tensor(expected[name]), rtol=1e-4, atol=1e-5)


def test_the_output_of_one_class_matches_the_output_of_all_classes():
    given, ours = case.inputs(), as_in_mmdet()
    torch.testing.assert_close(
        ours(given.features, given.logits, given.classes),
        ours(given.features, given.logits)[torch.arange(case.N), given.classes],
    )


def test_a_class_agnostic_head_has_one_output_for_all_classes():
    given, ours = case.inputs(), as_in_mmdet(num_classes=1)
    torch.testing.assert_close(
        ours(given.features, given.logits, given.classes), ours(given.features, given.logits)[:, 0]
    )


def test_the_mask_is_max_pooled():
    given, ours = case.inputs(), as_in_mmdet()
    low = torch.full((case.N, 1, case.M, case.M), -4.0)
    high = low.clone()
    high[:, :, 1::2, ::2] = 2.0  # one value in each 2 x 2 window
    everywhere = torch.full_like(low, 2.0)
    torch.testing.assert_close(ours(given.features, high), ours(given.features, everywhere))
    assert (ours(given.features, high) - ours(given.features, low)).abs().max() > 0.01


def test_features_of_odd_size_are_supported():
    ours = MaskIoUHead(ShapeSpec(channels=3, height=7, width=9), num_classes=2, fc_dims=[4])
    assert ours(torch.randn(2, 3, 7, 9), torch.randn(2, 1, 14, 18)).shape == (2, 2)


def test_initialization_is_the_published_one():
    torch.manual_seed(0)
    ours = MaskIoUHead(ShapeSpec(channels=256, height=14, width=14), num_classes=1203)
    assert sum(p.numel() for p in ours.parameters()) == pytest.approx(17.5e6, rel=0.01)
    stds = {
        "convs.1": (2 / (9 * 256)) ** 0.5,  # normal, fan out
        "convs.3": (2 / (9 * 256)) ** 0.5,
        "fcs.0": (1 / (256 * 7 * 7)) ** 0.5,  # uniform, fan in
        "fc_mask_iou": 0.01,
    }
    for name, std in stds.items():
        layer = ours.get_submodule(name)
        assert layer.weight.std().item() == pytest.approx(std, rel=0.02), name
        assert not layer.bias.any()
    assert ours.fcs[0].weight.abs().max() <= (3 / (256 * 7 * 7)) ** 0.5


@pytest.mark.parametrize("detach", [False, True])
def test_the_loss_trains_the_mask_unless_it_is_detached(detach):
    given, ours = case.inputs(), as_in_mmdet(detach_mask=detach)
    logits = given.logits.requires_grad_()
    x = given.features.requires_grad_()
    ours.loss(ours(x, logits, given.classes), recorded_targets(0.0)).backward()
    assert x.grad.abs().sum() > 0
    assert (logits.grad is None) == detach


def test_the_loss_is_half_the_mean_squared_error_of_targets_above_zero():
    predicted = torch.tensor([0.5, 2.0, 0.1], requires_grad=True)
    targets = torch.tensor([1.0, 0.0, 0.3])
    loss = head().loss(predicted, targets)
    assert loss.item() == pytest.approx(0.5 * (0.25 + 0.04) / 2)
    (gradient,) = torch.autograd.grad(loss, predicted)
    torch.testing.assert_close(gradient, torch.tensor([-0.25, 0.0, -0.1]))
    assert head(loss_weight=3.0).loss(predicted, targets).item() == pytest.approx(3 * 0.0725)


@pytest.mark.parametrize("number", [0, 2])
def test_without_targets_the_loss_is_zero_and_has_a_graph(number):
    ours = head()
    x = torch.randn(number, case.CHANNELS, 14, 14)
    logits = torch.randn(number, 1, 28, 28, requires_grad=True)
    ious = ours(x, logits, torch.zeros(number, dtype=torch.int64))
    loss = ours.loss(ious, torch.zeros(number))
    loss.backward()
    assert loss == 0
    assert all((p.grad == 0).all() for p in [logits, *ours.parameters()])


def test_under_autocast_ious_and_loss_are_float32():
    given, ours, last = case.inputs(), as_in_mmdet(), []
    exact = ours(given.features, given.logits, given.classes)
    ours.fcs[-1].register_forward_hook(lambda *a: last.append(a[2].relu().double()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ious = ours(given.features, given.logits.bfloat16(), given.classes)
        loss = ours.loss(ious, recorded_targets(0.0))
    assert ious.dtype == loss.dtype == torch.float32
    assert not torch.equal(ious, exact)  # the convolutions run in bfloat16
    torch.testing.assert_close(ious, exact, rtol=0.05, atol=0.1)
    # The last layer runs in float32.
    weight, bias = (p[given.classes].double() for p in ours.fc_mask_iou.parameters())
    expected = ((last[0] * weight).sum(dim=1) + bias).float()
    torch.testing.assert_close(ious, expected, rtol=1e-5, atol=1e-6)


def test_an_incomplete_input_shape_is_reported():
    with pytest.raises(ValueError, match="needs channels, height and width, got ShapeSpec"):
        MaskIoUHead(ShapeSpec(channels=8), num_classes=3)
