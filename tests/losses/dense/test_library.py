"""Dice, Lovasz, focal and hard-example losses: closed forms, ignored pixels, degenerate batches.

The oracles are the papers' equations, with loops over classes and sets of pixels.
"""

import sys
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from detectron2.projects.deeplab.loss import DeepLabCE
from torch import testing

from d2_seesaw.losses import DiceLoss, FocalLoss, LovaszLoss
from tests.support.dense import flat, gradient_of

C = 5
assert_close = partial(testing.assert_close, check_dtype=False)  # Lovasz is computed in float32
LOSSES = {
    "dice": DiceLoss,
    "lovasz": LovaszLoss,
    "lovasz per image": lambda c: LovaszLoss(c, per_image=True),
    "focal": FocalLoss,
    "ohem": lambda c: DeepLabCE(ignore_label=255, top_k_percent_pixels=0.2),
}
OURS = {name: new for name, new in LOSSES.items() if name != "ohem"}
every_loss = pytest.mark.parametrize("new", LOSSES.values(), ids=LOSSES)
every_loss_of_ours = pytest.mark.parametrize("new", OURS.values(), ids=OURS)


def valid_pixels(logits, labels):
    """Return ``(P, C)`` logits and ``(P,)`` labels of the pixels that are not ignored."""
    logits, labels = flat(logits, labels)
    return logits[labels != 255], labels[labels != 255]


def with_class_absent(batch):
    logits, labels = batch
    return logits, labels.masked_fill(labels == 2, 1)


def dice(logits, labels, smooth=0.0):
    p = logits.softmax(1)
    terms = []
    for c in range(C):
        y = (labels == c).to(p.dtype)
        ratio = (2 * (p[:, c] * y).sum() + 2 * smooth) / (p[:, c].sum() + y.sum() + 2 * smooth)
        terms.append((1 - ratio) if y.any() else 0 * ratio)
    return torch.stack(terms).sum() / C


def lovasz(logits, labels):
    """Sum the sorted errors times the growth of the Jaccard loss of the sets of mispredictions."""
    p = logits.softmax(1)
    terms = []
    for c in labels.unique().tolist():
        truth = {n for n, label in enumerate(labels.tolist()) if label == c}
        errors = [1 - p[n, c] if n in truth else p[n, c] for n in range(len(labels))]

        def jaccard_loss(wrong, truth=truth):
            return len(wrong) / len(truth | wrong) if truth | wrong else 0.0

        order = sorted(range(len(labels)), key=lambda n: -errors[n].item())
        term = torch.zeros((), dtype=p.dtype)
        for i, n in enumerate(order):
            growth = jaccard_loss(set(order[: i + 1])) - jaccard_loss(set(order[:i]))
            term = term + growth * errors[n]
        terms.append(term)
    return torch.stack(terms).mean()


def focal(logits, labels, gamma=2.0, alpha=None):
    p = logits.sigmoid()
    is_true = F.one_hot(labels, C).bool()
    p_true = torch.where(is_true, p, 1 - p)
    weight = 1.0 if alpha is None else torch.where(is_true, alpha, 1.0 - alpha)
    return (-weight * (1 - p_true) ** gamma * p_true.log()).mean()


CLOSED = [
    (DiceLoss, {}, dice),
    (DiceLoss, {"smooth": 1.0}, lambda x, y: dice(x, y, 1.0)),
    (LovaszLoss, {}, lovasz),
    (FocalLoss, {}, focal),
    (FocalLoss, {"gamma": 0.5, "alpha": 0.25}, lambda x, y: focal(x, y, 0.5, 0.25)),
]


@pytest.mark.parametrize("absent", [False, True])
@pytest.mark.parametrize(("kind", "options", "closed_form"), CLOSED)
def test_value_and_gradient_equal_the_papers_equation(batch, absent, kind, options, closed_form):
    logits, labels = with_class_absent(batch) if absent else batch
    logits.requires_grad_()
    expected = closed_form(*valid_pixels(logits, labels))
    value = kind(C, loss_weight=0.5, **options)(logits, labels)
    tolerance = {"rtol": 1e-5, "atol": 1e-6} if kind is LovaszLoss else {}
    assert_close(value, 0.5 * expected, **tolerance)
    gradient = gradient_of(value, logits)
    assert_close(gradient, 0.5 * gradient_of(expected, logits), **tolerance)


def test_lovasz_is_one_minus_the_mean_iou_of_hard_predictions(batch):
    _, labels = batch
    predictions = torch.where(labels == 255, 0, labels).roll(1, dims=2)
    logits = 1e3 * F.one_hot(predictions, C).movedim(3, 1).double()
    valid = labels != 255
    ious = []
    for c in range(C):
        found, truth = (predictions == c) & valid, labels == c
        ious.append((found & truth).sum() / (found | truth).sum())
    assert_close(LovaszLoss(C)(logits, labels), 1 - torch.stack(ious).mean())


def test_lovasz_per_image_is_the_mean_over_images_and_0_without_valid_pixels(batch):
    logits, labels = batch
    labels[1] = 255
    value = LovaszLoss(C, per_image=True)(logits, labels)
    expected = lovasz(*valid_pixels(logits[:1], labels[:1])) / 2
    assert_close(value, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("percent", [0.1, 0.5])
def test_ohem_is_the_mean_of_the_highest_cross_entropies(batch, percent):
    logits, labels = batch
    loss = DeepLabCE(ignore_label=255, top_k_percent_pixels=percent)
    losses = F.cross_entropy(logits, labels, ignore_index=255, reduction="none")
    highest = losses.flatten().sort(descending=True).values[: int(percent * labels.numel())]
    assert_close(loss(logits, labels), highest.mean())


@every_loss
def test_ignored_pixels_have_no_influence_and_no_gradient(batch, new):
    logits, labels = batch
    logits.requires_grad_()
    gradient = gradient_of(new(C)(logits, labels), logits)
    is_ignored = (labels == 255).unsqueeze(1).expand_as(logits)
    assert gradient[is_ignored].abs().sum() == 0
    assert gradient.abs().sum() > 0
    other = torch.where(is_ignored, 1e3 * torch.randn_like(logits), logits)
    assert_close(new(C)(other, labels), new(C)(logits, labels), rtol=0, atol=0)


@every_loss
def test_only_ignored_pixels_give_a_differentiable_zero(new):
    logits = torch.randn(2, C, 3, 4, requires_grad=True)
    value = new(C)(logits, torch.full((2, 3, 4), 255))
    value.backward()
    assert value.item() == 0
    assert_close(logits.grad, torch.zeros_like(logits))


@every_loss_of_ours
def test_an_empty_batch_gives_a_differentiable_zero(new):
    logits = torch.randn(0, C, 3, 4, requires_grad=True)
    value = new(C)(logits, torch.zeros(0, 3, 4).long())
    value.backward()
    assert value.item() == 0


@every_loss_of_ours
def test_half_precision_is_computed_in_float32_under_autocast(new):
    logits = (20 * torch.randn(2, C, 20, 20)).half().requires_grad_()
    labels = torch.randint(C, (2, 20, 20))
    expected = new(C)(logits.detach().float(), labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = new(C)(logits, labels)
    assert value.dtype == torch.float32
    assert_close(value, expected, rtol=0, atol=0)
    assert gradient_of(value, logits).isfinite().all()


@every_loss_of_ours
@pytest.mark.parametrize("size", [(), (7,), (3, 4)])
def test_accepts_the_shapes_and_labels_of_cross_entropy(new, size):
    logits = torch.randn(6, C, *size)
    labels = torch.randint(C, (6, *size))
    labels[0] = 255
    value = new(C)(logits, labels.to(torch.uint8))
    assert value.shape == ()
    assert_close(value, new(C)(logits, labels))


@pytest.mark.parametrize("new", OURS.values(), ids=OURS)
def test_extreme_logits_give_finite_values_and_gradients(new):
    logits = torch.tensor([[1e4, -1e4, 0, 0, 0], [-1e4, 1e4, 0, 0, 0]]).requires_grad_()
    for labels in ([0, 1], [1, 0], [2, 3]):
        value = new(C)(logits, torch.tensor(labels))
        assert value.isfinite()
        assert gradient_of(value, logits).isfinite().all()


@every_loss_of_ours
def test_invalid_labels_and_hyper_parameters_are_reported(new):
    with pytest.raises(ValueError, match=r"\[0, 4\] \(5 classes; 255 is ignored\), got 5"):
        new(C)(torch.randn(1, C), torch.tensor([5]))
    with pytest.raises(ValueError, match=r"logits must have shape \(N, 5, ...\)"):
        new(C)(torch.randn(1, 4), torch.tensor([0]))
    with pytest.raises(ValueError, match="ignore_index is 255, which is one of the 256 classes"):
        new(256)


@pytest.mark.parametrize(
    ("new", "message"),
    [
        (lambda: DiceLoss(2, smooth=-1), "smooth must be 0 or more, got -1"),
        (lambda: LovaszLoss(1), "Lovasz-Softmax needs at least 2 classes, got 1"),
        (lambda: FocalLoss(2, gamma=-1), "gamma must be 0 or more, got -1"),
        (lambda: FocalLoss(2, alpha=2), r"alpha must be in \[0, 1\] or None, got 2"),
    ],
)
def test_hyper_parameters_out_of_range_are_reported(new, message):
    with pytest.raises(ValueError, match=message):
        new()


def test_a_missing_library_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
    with pytest.raises(ImportError, match=r"DiceLoss needs .*: pip install segmentation-models"):
        DiceLoss(C)


def test_print_shows_the_hyper_parameters():
    assert "FocalLoss(\n  num_classes=3, gamma=1.0, alpha=0.25, ignore_index=255" in str(
        FocalLoss(3, gamma=1.0, alpha=0.25)
    )
