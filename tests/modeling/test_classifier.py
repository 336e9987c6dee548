"""Image classifiers. Oracles: torchvision's ResNeXt-50, plain PyTorch, the authors' LWS."""

import json
from functools import cache
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from detectron2.config import instantiate
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import Backbone
from detectron2.solver.build import get_default_optimizer_params
from torch import nn
from torchvision.models import resnext50_32x4d

from d2_seesaw.checkpoint import StrictCheckpointer
from d2_seesaw.checkpoint.pretrained import convert_torchvision_resnet
from d2_seesaw.layers import NormedLinear, linear_classifier, normed_linear_classifier
from d2_seesaw.losses import SeesawCrossEntropyLoss, SeesawLoss, SoftmaxLoss
from d2_seesaw.modeling import DecoupledClassifier, ImageClassifier
from tests.support.configs import CONFIGS, changed

C, D, SIZE = 5, 6, 16
GOLDEN = json.loads((Path(__file__).parents[1] / "golden/decoupling_reference.json").read_text())


class TinyBackbone(Backbone):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, D, 3, 2), nn.BatchNorm2d(D), nn.ReLU())

    def forward(self, x):  # pyright: ignore[reportIncompatibleMethodOverride]
        return {"stem": x, "last": self.layers(x)}

    def output_shape(self):
        return {"stem": ShapeSpec(channels=3), "last": ShapeSpec(channels=D)}


def seesaw():
    return SeesawCrossEntropyLoss(C, q=1.0, ignore_index=-1)


LOSSES = {
    "cross-entropy": nn.CrossEntropyLoss,
    "seesaw": seesaw,
    "softmax of detection": lambda: SoftmaxLoss(C),
    "seesaw of detection": lambda: SeesawLoss(C),
}


def model(name="cross-entropy", kind=ImageClassifier, **options):
    given = {"classifier": linear_classifier(std=1.0), "loss": LOSSES[name](), "num_classes": C}
    return kind(backbone=TinyBackbone(), **given | options)


def images(labels=(0, 4, 2, 2)):
    return [{"image": torch.randint(0, 255, (3, SIZE, SIZE)), "label": c} for c in labels]


def steps(module, number=3, **options):
    parameters = get_default_optimizer_params(module)
    optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.1)
    module.train()
    for _ in range(number):
        optimizer.zero_grad()
        sum(module(images(**options)).values()).backward()
        optimizer.step()


def tensors(module):
    return {n: t.clone() for n, t in [*module.named_parameters(), *module.named_buffers()]}


@cache
def resnext():
    """Return the model of the recipe and torchvision's, with equal backbones."""
    cfg = changed(CONFIGS / "classification/imagenet_lt_resnext50_softmax_90e.py")
    ours, theirs = instantiate(cfg.model), resnext50_32x4d()
    state = theirs.state_dict()
    converted = convert_torchvision_resnet(state, ours.state_dict())
    ours.load_state_dict(converted, strict=False)
    theirs.fc.load_state_dict(ours.classifier.state_dict())
    return ours.eval(), theirs.eval()


@torch.no_grad()
def test_the_recipe_is_torchvisions_resnext50():
    ours, theirs = resnext()
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    given = [{"image": torch.randint(0, 255, (3, 64, 64))} for _ in range(2)]
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).view(2, 3, 1, 1)
    pixels = torch.stack([x["image"] for x in given]) / 255
    expected = theirs((pixels - mean) / std).softmax(dim=1)
    found = torch.stack([x["scores"] for x in ours(given)])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_losses_and_scores_are_those_of_the_loss():
    classifier = model("seesaw").train()
    given = images()
    losses = classifier(given)
    x = (torch.stack([i["image"] for i in given]) - classifier.pixel_mean) / classifier.pixel_std
    features = classifier.backbone.layers(x).flatten(2).mean(2)
    logits = F.linear(features, classifier.classifier.weight, classifier.classifier.bias)
    labels = torch.tensor([0, 4, 2, 2])
    assert list(losses) == ["loss_cls"]
    torch.testing.assert_close(losses["loss_cls"], seesaw()(logits, labels))
    assert classifier.loss.class_counts.tolist() == [1, 0, 2, 0, 1]
    scores = torch.stack([s["scores"] for s in classifier.eval()(given)])
    x = classifier.backbone.layers(x).flatten(2).mean(2)
    expected = F.linear(x, classifier.classifier.weight, classifier.classifier.bias).softmax(1)
    torch.testing.assert_close(scores, expected)


@pytest.mark.parametrize("loss", LOSSES)
def test_any_loss_fits(loss):
    classifier = model(loss)
    steps(classifier)
    outputs = classifier.eval()(images())
    assert all(output["scores"].shape == (C,) for output in outputs)
    logits = {"softmax of detection": C + 1, "seesaw of detection": C + 2}.get(loss, C)
    assert classifier.classifier.out_features == logits


def test_bad_inputs_are_refused():
    for message, options in (
        ("num_classes is 5 in the model and 4 in its loss", {"loss": SeesawLoss(4)}),
        (r"in_feature must be one of \['stem', 'last'\], got 'res5'", {"in_feature": "res5"}),
    ):
        with pytest.raises(ValueError, match=message):
            model(**options)
    with pytest.raises(ValueError, match=r"one size, got 16 x 16 and 16 x 18: end the transforms"):
        model()([*images(), {"image": torch.zeros(3, 16, 18)}])
    with pytest.raises(ValueError, match=r"needs labels: a\.jpg has none"):
        model()([{"image": torch.zeros(3, 16, 16), "file_name": "a.jpg"}])


@pytest.mark.parametrize("init", ["random", "keep", "scale"])
@pytest.mark.parametrize("loss", ["cross-entropy", "seesaw"])
def test_the_second_phase_changes_the_classifier_alone(loss, init):
    first = model(loss)
    steps(first)
    second = model(loss, DecoupledClassifier, init=init)
    missing = second.load_state_dict(first.state_dict(), strict=False).missing_keys
    assert set(missing) == set(second.added_keys)
    before = tensors(second)
    old = tensors(first)
    assert torch.equal(before["classifier.weight"], old["classifier.weight"]) == (init != "random")
    steps(second)
    learned = {
        "random": {"classifier.weight", "classifier.bias"},
        "scale": {"classifier.class_scales.scales"},
    }
    expected = learned.get(init, learned["random"])
    assert {n for n, p in second.named_parameters() if p.requires_grad} == expected
    changed_tensors = {n for n, t in tensors(second).items() if not torch.equal(t, before[n])}
    assert changed_tensors - {"loss.class_counts"} == expected
    for name, tensor in old.items():
        if name.startswith("backbone") or (init == "scale" and name.startswith("classifier")):
            assert torch.equal(tensor, tensors(second)[name]), name
    assert all(p.grad is None for p in second.backbone.parameters())
    if loss == "seesaw":
        assert second.loss.class_counts.tolist() == [3, 0, 6, 0, 3]  # of the second phase


def test_counts_may_continue():
    first = model("seesaw")
    steps(first, number=2)
    second = model("seesaw", DecoupledClassifier, init="keep", fresh_counts=False)
    second.load_state_dict(first.state_dict(), strict=False)
    steps(second, number=1)
    assert second.loss.class_counts.tolist() == [3, 0, 6, 0, 3]


def test_learned_scales_are_those_of_the_authors_code():
    case, tau = GOLDEN["lws"], GOLDEN["tau"]
    weight, bias, x = (torch.tensor(tau[k]) for k in ("weight", "bias", "x"))
    linear = nn.Linear(4, 5)
    linear.load_state_dict({"weight": weight, "bias": bias})
    second = DecoupledClassifier(
        backbone=TinyBackbone(),
        classifier=linear,
        loss=nn.CrossEntropyLoss(),
        num_classes=C,
        init="scale",
    )
    linear.class_scales.scales.data = torch.tensor(case["scales"])
    torch.testing.assert_close(second.classifier(x), torch.tensor(case["logits"]))


def save(module, folder, name):
    StrictCheckpointer(module, str(folder)).save(name)
    return str(folder / f"{name}.pth")


def test_another_loss_and_classifier_may_follow_and_are_resumed_exactly(tmp_path):
    first = model()
    steps(first)
    path = save(first, tmp_path, "first")
    options = {"classifier": normed_linear_classifier(), "init": "random"}
    second = model("seesaw of detection", DecoupledClassifier, **options)
    fresh = tensors(second)
    StrictCheckpointer(second).load(path)  # 5 logits there, 7 here
    assert type(second.classifier) is NormedLinear
    for name, tensor in tensors(second).items():
        expected = first.state_dict() if name.startswith("backbone") else fresh
        assert torch.equal(tensor, expected[name]), name
    steps(second)
    path = save(second, tmp_path, "second")
    resumed = model("seesaw of detection", DecoupledClassifier, **options)
    StrictCheckpointer(resumed).resume(path)
    assert all(torch.equal(t, tensors(second)[n]) for n, t in tensors(resumed).items())


def test_a_kept_classifier_must_fit_and_evaluation_needs_the_second_phase(tmp_path):
    path = save(model(), tmp_path, "first")
    kept = model("seesaw of detection", DecoupledClassifier, init="keep")
    with pytest.raises(ValueError, match=r"classifier\.weight: \(5, 6\) in the checkpoint, \(7, 6"):
        StrictCheckpointer(kept).load(path)
    second = model(kind=DecoupledClassifier)
    expected = (
        r"it is of the first phase, from which DecoupledClassifier[^:]*:\n  second_phase: mis"
    )
    with pytest.raises(ValueError, match=expected):
        StrictCheckpointer(second, require_all=True).load(path)
    with pytest.raises(ValueError, match="extends a trained model: give its checkpoint"):
        StrictCheckpointer(second).load("")
    with pytest.raises(ValueError, match=r"init must be one of \['random', 'keep', 'scale'\]"):
        model(kind=DecoupledClassifier, init="copy")


@pytest.mark.parametrize("init", ["random", "keep", "scale"])
def test_a_second_phase_does_not_start_from_a_second_phase(init, tmp_path):
    given = model(kind=DecoupledClassifier, init="keep" if init == "random" else init)
    path = save(given, tmp_path, "second")
    started = model(kind=DecoupledClassifier, init=init)
    before = tensors(started)
    for options in ({}, {"allow_partial": True}):
        expected = (
            r"second\.pth is already of the second phase, .* give the checkpoint of the first"
        )
        with pytest.raises(ValueError, match=expected):
            StrictCheckpointer(started, **options).load(path)
    assert all(torch.equal(tensor, before[name]) for name, tensor in tensors(started).items())
    StrictCheckpointer(started, str(tmp_path)).resume_or_load("", resume=True)
    for name, tensor in tensors(given).items():
        assert torch.equal(tensor, tensors(started)[name]), name


def test_learned_scales_are_not_left_out_in_evaluation(tmp_path):
    scaled = model(kind=DecoupledClassifier, init="scale")
    path = save(scaled, tmp_path, "lws")
    for kind in (ImageClassifier, DecoupledClassifier):
        with pytest.raises(ValueError, match="config of its training") as error:
            StrictCheckpointer(model(kind=kind), require_all=True).load(path)
        (line,) = str(error.value).splitlines()[1:-1]
        assert line == "  classifier.class_scales.scales: in the checkpoint, missing in the model"
    StrictCheckpointer(model()).load(path)  # as any pretrained model
    path = save(model(kind=DecoupledClassifier), tmp_path, "crt")
    StrictCheckpointer(model(), require_all=True).load(path)  # its classifier is a plain one
