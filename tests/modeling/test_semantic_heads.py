import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.meta_arch.semantic_seg import SemSegFPNHead
from detectron2.projects.deeplab import DeepLabV3PlusHead
from detectron2.projects.deeplab.loss import DeepLabCE
from torch import nn
from torch.nn import functional as F

from d2_seesaw.modeling import (
    CornerAlignedDeepLabV3PlusHead,
    LossDrivenDeepLabV3PlusHead,
    LossDrivenSemSegFPNHead,
)

C = 5
IGNORED = 255
FPN_SHAPE = {"p2": ShapeSpec(channels=8, stride=4), "p3": ShapeSpec(channels=8, stride=8)}
FPN_OPTIONS = {"num_classes": C, "ignore_value": IGNORED, "conv_dims": 8, "common_stride": 4}
DEEPLAB_SHAPE = {"res2": ShapeSpec(channels=8, stride=4), "res5": ShapeSpec(channels=8, stride=16)}
DEEPLAB_OPTIONS = {
    "num_classes": C,
    "ignore_value": IGNORED,
    "project_channels": [4],
    "aspp_dilations": [1, 2, 3],
    "aspp_dropout": 0.0,
    "decoder_channels": [8, 8],
    "common_stride": 4,
    "norm": "BN",
}


def cross_entropy():
    return nn.CrossEntropyLoss(ignore_index=IGNORED)


def fpn_pair(**options):
    options = {**FPN_OPTIONS, **options}
    base = SemSegFPNHead(FPN_SHAPE, **options)
    return base, LossDrivenSemSegFPNHead(FPN_SHAPE, loss=cross_entropy(), **options)


def deeplab_pair(loss_type="cross_entropy", loss=None, **options):
    options = {"train_size": None, **DEEPLAB_OPTIONS, **options}
    base = DeepLabV3PlusHead(DEEPLAB_SHAPE, loss_type=loss_type, **options)
    return base, LossDrivenDeepLabV3PlusHead(DEEPLAB_SHAPE, loss=loss or cross_entropy(), **options)


PAIRS = {
    "fpn": fpn_pair,
    "fpn weighted": lambda: fpn_pair(loss_weight=0.5, norm="GN", conv_dims=32),
    "deeplab": deeplab_pair,
    "deeplab weighted": lambda: deeplab_pair(loss_weight=0.5, train_size=(64, 96)),
    "deeplab hard pixels": lambda: deeplab_pair(
        "hard_pixel_mining", DeepLabCE(ignore_label=IGNORED, top_k_percent_pixels=0.2)
    ),
}


def features_for(head, height=64, width=96):
    shape = FPN_SHAPE if isinstance(head, SemSegFPNHead) else DEEPLAB_SHAPE
    return {
        name: torch.randn(2, s.channels, *(-(-side // (s.stride or 1)) for side in (height, width)))
        for name, s in shape.items()
    }


def labels(height=64, width=96):
    labels = torch.randint(C, (2, height, width))
    labels[:, :7] = IGNORED
    return labels


def step(head, features, targets):
    """Return the loss of a training step and the gradients of all parameters and features."""
    features = {name: x.clone().requires_grad_() for name, x in features.items()}
    _, losses = head.train()(features, targets)
    head.zero_grad()
    losses["loss_sem_seg"].backward()
    gradients = {name: p.grad for name, p in head.named_parameters()}
    return losses, gradients, {name: x.grad for name, x in features.items()}


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_matches_detectron2s_head_bit_for_bit(pair):
    base, head = pair()
    head.load_state_dict(base.state_dict())
    features, targets = features_for(head), labels()
    torch.testing.assert_close(
        step(head, features, targets), step(base, features, targets), rtol=0, atol=0
    )
    with torch.no_grad():
        found, _ = head.eval()(features)
        expected, _ = base.eval()(features)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("pair", [fpn_pair, deeplab_pair], ids=["fpn", "deeplab"])
def test_every_parameter_has_a_gradient(pair):
    _, head = pair()
    _, gradients, _ = step(head, features_for(head), labels())
    assert all(g.abs().sum() > 0 for g in gradients.values())


class Recorder(nn.Module):
    """Loss that records its inputs."""

    def forward(self, logits, labels):
        self.logits, self.labels = logits, labels
        # A matrix product, which autocast would compute in half precision.
        self.product = logits.flatten(1) @ logits.flatten(1).T
        return logits.mean()


@pytest.mark.parametrize("pair", [fpn_pair, deeplab_pair], ids=["fpn", "deeplab"])
def test_the_loss_sees_upsampled_logits_in_float32_under_autocast(pair):
    _, head = pair()
    head.loss = Recorder()
    features, targets = features_for(head), labels()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = head.layers(features)
        head.losses(logits, targets)
    assert logits.dtype == torch.bfloat16
    expected = F.interpolate(logits.float(), scale_factor=4, mode="bilinear", align_corners=False)
    assert head.loss.logits.dtype == head.loss.product.dtype == torch.float32
    torch.testing.assert_close(head.loss.logits, expected, rtol=0, atol=0)
    assert head.loss.labels is targets


def test_aligned_corners_are_kept_in_float32_under_autocast_and_for_labels_of_any_size():
    head = CornerAlignedDeepLabV3PlusHead(DEEPLAB_SHAPE, loss=Recorder(), **DEEPLAB_OPTIONS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = head.layers(features_for(head, 61, 90))
        losses = head.losses(logits, labels(61, 90))
    assert logits.dtype == torch.bfloat16
    assert losses["loss_sem_seg"].dtype == head.loss.product.dtype == torch.float32
    seen = head.loss.logits
    assert seen.shape[-2:] == (61, 90)
    for row, column in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
        torch.testing.assert_close(seen[..., row, column], logits[..., row, column].float())


def test_semantic_fpn_matches_detectron2_under_autocast():
    base, head = fpn_pair()
    head.load_state_dict(base.state_dict())
    features, targets = features_for(head), labels()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, expected = step(head, features, targets), step(base, features, targets)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_trains_on_images_of_any_size():
    _, head = deeplab_pair()
    head.loss = Recorder()
    features, targets = features_for(head, 61, 90), labels(61, 90)
    logits = head.layers(features)
    assert head.losses(logits, targets)["loss_sem_seg"].isfinite()
    full = F.interpolate(logits, scale_factor=4, mode="bilinear", align_corners=False)
    assert full.shape[-2:] == (64, 92)
    torch.testing.assert_close(head.loss.logits, full[..., :61, :90])


class Counting(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.num_classes = num_classes
        self.register_buffer("class_counts", torch.zeros(num_classes, dtype=torch.int64))


def test_the_state_of_the_loss_is_saved_with_the_head():
    head = LossDrivenSemSegFPNHead(FPN_SHAPE, loss=Counting(C), **FPN_OPTIONS)
    assert "loss.class_counts" in head.state_dict()


HEADS = [
    pytest.param(
        CornerAlignedDeepLabV3PlusHead, DEEPLAB_SHAPE, DEEPLAB_OPTIONS, id="corner-aligned deeplab"
    ),
    pytest.param(LossDrivenSemSegFPNHead, FPN_SHAPE, FPN_OPTIONS, id="fpn"),
    pytest.param(LossDrivenDeepLabV3PlusHead, DEEPLAB_SHAPE, DEEPLAB_OPTIONS, id="deeplab"),
]


@pytest.mark.parametrize(("head", "shape", "options"), HEADS)
def test_the_ignored_label_is_255_and_the_image_pooling_global_by_default(head, shape, options):
    options = {k: v for k, v in options.items() if k != "ignore_value"}
    built = head(shape, loss=cross_entropy(), **options)
    assert built.ignore_value == IGNORED
    with torch.no_grad():
        built.eval()(features_for(built, 48, 80))


@pytest.mark.parametrize(("head", "shape", "options"), HEADS)
@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (Counting(7), "num_classes of Counting is 7, num_classes of the head is 5"),
        (nn.CrossEntropyLoss(), "ignore_index of CrossEntropyLoss is -100, ignore_value .* 255"),
        (DeepLabCE(), "ignore_label of DeepLabCE is -1, ignore_value of the head is 255"),
    ],
)
def test_an_inconsistent_loss_is_rejected(head, shape, options, loss, message):
    with pytest.raises(ValueError, match=message):
        head(shape, loss=loss, **options)


def test_a_loss_type_beside_a_loss_is_rejected():
    with pytest.raises(ValueError, match="loss_type='hard_pixel_mining' would have no effect"):
        LossDrivenDeepLabV3PlusHead(
            DEEPLAB_SHAPE, loss=cross_entropy(), loss_type="hard_pixel_mining", **DEEPLAB_OPTIONS
        )
