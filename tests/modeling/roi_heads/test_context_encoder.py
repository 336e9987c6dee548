import pytest
import torch
from detectron2.structures import Instances
from torch import nn

from d2_seesaw.modeling.roi_heads import GlobalContextEncoder

C, D = 7, 6


def encoder(**options):
    return GlobalContextEncoder(C, channels=D, **options)


def features():
    return {"p6": torch.randn(2, D, 5, 4), "p5": torch.randn(2, D, 10, 8)}


SIZES = [(320, 256), (130, 256)]  # 5 x 4 and 3 x 4 at stride 64


def targets(*labels):
    return [
        Instances((64, 64), gt_classes=torch.tensor(image_labels, dtype=torch.int64))
        for image_labels in labels
    ]


def test_each_image_gets_a_vector_and_one_logit_per_class():
    module = GlobalContextEncoder(1203)
    context = module({"p6": torch.randn(2, 256, 13, 21)}, [(800, 1333)] * 2)
    assert context.shape == (2, 256, 1, 1)
    assert module.logits(context).shape == (2, 1203)


def test_the_encoder_is_four_convolutions_with_relu_then_the_mean():
    module = encoder()
    given = features()
    x = given["p6"]
    convs = [layer for layer in module.layers if isinstance(layer, nn.Conv2d)]
    assert len(convs) == 4
    for conv in convs:
        x = nn.functional.conv2d(x, conv.weight, conv.bias, padding=1).clamp(min=0)
    torch.testing.assert_close(module(given, SIZES)[:, :, 0, 0], x.flatten(2).mean(2))


def test_residual_pairs_apply_no_relu_after_the_sum():
    module = encoder(residual=True)
    given = features()
    x = given["p6"]
    convs = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)]
    assert len(convs) == 4
    for first, second in (convs[:2], convs[2:]):
        x = x + second(first(x).clamp(min=0))
    assert (x < 0).any()
    torch.testing.assert_close(module(given, SIZES)[:, :, 0, 0], x.flatten(2).mean(2))


def test_any_feature_can_be_encoded():
    given = features()
    of_p5 = encoder(in_feature="p5", num_convs=0)(given, SIZES)
    torch.testing.assert_close(of_p5[:, :, 0, 0], given["p5"].mean(dim=(2, 3)))


@pytest.mark.parametrize(("level", "stride", "rows"), [("p6", 64, 3), ("p5", 32, 5)])
def test_the_masked_mean_ignores_the_padding(level, stride, rows):
    module = encoder(in_feature=level, masked_mean=True, stride=stride)
    given = features()
    maps = module.layers(given[level])
    context = module(given, SIZES)[:, :, 0, 0]
    torch.testing.assert_close(context[0], maps[0].mean(dim=(1, 2)))
    torch.testing.assert_close(context[1], maps[1, :, :rows].mean(dim=(1, 2)))
    assert (context[1] - maps[1].mean(dim=(1, 2))).abs().max() > 1e-3


def test_a_stride_that_is_too_small_is_reported():
    with pytest.raises(
        ValueError, match=r"\(5, 4\) is too small .* image of \(320, 256\) at stride 32"
    ):
        encoder(masked_mean=True, stride=32)(features(), SIZES)


def test_a_missing_feature_is_reported():
    with pytest.raises(ValueError, match=r"'p7' is not one of \['p5', 'p6'\]"):
        encoder(in_feature="p7")(features(), SIZES)


def test_residual_pairs_need_an_even_number_of_convolutions():
    with pytest.raises(ValueError, match="even number of convolutions, got 3"):
        encoder(residual=True, num_convs=3)


def loss_by_its_formula(probs, entries):
    """Return the mean binary cross-entropy over ``entries``: (image, class, present)."""
    terms = [-(probs[i, c].log() if there else (1 - probs[i, c]).log()) for i, c, there in entries]
    return torch.stack(terms).mean()


def test_the_loss_is_the_mean_over_images_and_classes_despite_repeated_labels():
    module = encoder()
    context = torch.randn(2, D, 1, 1)
    found = module.losses(context, targets([3, 1, 3, 3], []))
    probs = module.logits(context).sigmoid()
    entries = [(i, c, i == 0 and c in (1, 3)) for i in range(2) for c in range(C)]
    torch.testing.assert_close(found, {"loss_context": 3.0 * loss_by_its_formula(probs, entries)})


def test_the_weight_scales_the_loss():
    module, context = encoder(loss_weight=0.5), torch.randn(2, D, 1, 1)
    plain = module.losses(context, targets([3], []))["loss_context"]
    module.loss_weight = 2.0
    torch.testing.assert_close(module.losses(context, targets([3], []))["loss_context"], 4 * plain)


NEGATIVES = [torch.tensor([0, 5]), torch.tensor([2])]


def test_a_federated_loss_uses_only_annotated_and_verified_classes():
    module = encoder(federated=True)
    context = torch.randn(2, D, 1, 1)
    found = module.losses(context, targets([3, 1, 3], []), NEGATIVES)["loss_context"]
    probs = module.logits(context).sigmoid()
    entries = [(0, 1, True), (0, 3, True), (0, 0, False), (0, 5, False), (1, 2, False)]
    torch.testing.assert_close(found, 3.0 * loss_by_its_formula(probs, entries))


def test_unknown_classes_get_no_gradient():
    module = encoder(federated=True)
    module.losses(torch.randn(2, D, 1, 1), targets([3, 1], []), NEGATIVES)[
        "loss_context"
    ].backward()
    gradient = module.classifier.weight.grad.abs().sum(dim=1)
    assert (gradient > 0).nonzero().flatten().tolist() == [0, 1, 2, 3, 5]


def test_annotated_classes_are_positive_even_if_verified_absent():
    module, context = encoder(federated=True), torch.randn(1, D, 1, 1)
    both = module.losses(context, targets([3]), [torch.tensor([3, 4])])
    torch.testing.assert_close(both, module.losses(context, targets([3]), [torch.tensor([4])]))


def test_no_known_classes_give_zero_loss_with_gradients():
    module, nothing = encoder(federated=True), torch.zeros(0, dtype=torch.int64)
    context = torch.randn(2, D, 1, 1, requires_grad=True)
    loss = module.losses(context, targets([], []), [nothing, nothing])["loss_context"]
    loss.backward()
    assert loss == 0
    assert (context.grad == 0).all()


def test_a_federated_loss_without_negatives_is_reported():
    with pytest.raises(ValueError, match="FederatedRCNN as the model"):
        encoder(federated=True).losses(torch.randn(1, D, 1, 1), targets([0]))


def test_the_loss_of_half_precision_logits_is_float32():
    module = encoder().bfloat16()
    context = torch.randn(2, D, 1, 1).bfloat16()
    loss = module.losses(context, targets([0], [1]))["loss_context"]
    assert loss.dtype == torch.float32
    probs = module.logits(context).float().sigmoid()
    entries = [(i, c, c == i) for i in range(2) for c in range(C)]
    torch.testing.assert_close(loss, 3.0 * loss_by_its_formula(probs, entries))


def test_it_runs_under_autocast():
    module = encoder()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        context = module(features(), SIZES)
        assert module.losses(context, targets([0], [1]))["loss_context"].isfinite()


def test_every_parameter_gets_a_gradient():
    for residual in (False, True):
        module = encoder(residual=residual)
        module.losses(module(features(), SIZES), targets([0], []))["loss_context"].backward()
        for name, parameter in module.named_parameters():
            assert parameter.grad.abs().sum() > 0, name
