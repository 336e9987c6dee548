"""Exported models, run by TorchScript and onnxruntime, against the models that they come from."""

import pytest
import torch
from detectron2.config import instantiate
from torch import nn

from d2_seesaw.engine import load_config
from d2_seesaw.inference import MultiViewInference, export
from d2_seesaw.inference.export import (
    TraceableModel,
    export_onnx,
    export_torchscript,
    load_onnx,
    load_torchscript,
)
from d2_seesaw.inference.export_comparison import ExportError, compare
from tests.inference.models import mask_rcnn

pytest.importorskip("onnxruntime", reason="pip install onnx onnxruntime")

FORMATS = ("torchscript", "onnx")
both_formats = pytest.mark.parametrize("kind", FORMATS)


def noise(*sizes):
    return [(torch.rand(3, h, w) * 255).byte() for h, w in sizes]


def exported(model, kind, folder, image):
    path = folder / f"model.{kind}"
    if kind == "onnx":
        export_onnx(model, path, image)
        return load_onnx(path)
    export_torchscript(model, path, image)
    return load_torchscript(path, list(model(image)))


def model_of(name):
    model = instantiate(load_config(f"configs/{name}.py").model)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.uniform_(0.5, 1.5)
    return TraceableModel(model)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return TraceableModel(mask_rcnn())


@pytest.mark.parametrize(
    "name",
    [
        "quickstart/seesaw",
        "quickstart/semantic_recall",
        pytest.param("quickstart/cascade", marks=pytest.mark.slow),
        pytest.param("quickstart/htc_lite", marks=pytest.mark.slow),
        # The whole recipe: deformable convolutions, CARAFE, TSD, FPG and mask scoring.
        pytest.param("quickstart/challenge", marks=pytest.mark.slow),
    ],
)
@both_formats
def test_an_exported_model_computes_what_the_model_does_for_any_size(name, kind, tmp_path):
    model = model_of(name)
    images = noise((144, 144), (144, 200), (100, 144))
    comparison = compare(model, exported(model, kind, tmp_path, images[0]), images)
    comparison.check()
    assert comparison.unmatched == 0
    assert comparison.detections > 50 or comparison.differences["label maps"] < 1e-4


@both_formats
def test_an_image_without_detections_has_empty_outputs(model, kind, tmp_path, monkeypatch):
    rich, poor = noise((96, 96))[0], torch.zeros(3, 64, 96, dtype=torch.uint8)
    with torch.no_grad():
        best = [float(model(image)["scores"].max()) for image in (rich, poor)]
    if best[0] < best[1]:
        rich, poor = poor, rich
    predictor = model.model.roi_heads.box_predictor
    monkeypatch.setattr(predictor, "test_score_thresh", sum(best) / 2)
    outputs = exported(model, kind, tmp_path, rich)(poor)
    assert {name: len(value) for name, value in outputs.items()} == dict.fromkeys(outputs, 0)
    assert outputs["pred_boxes"].shape == (0, 4)


@pytest.fixture(scope="module")
def outputs(model):
    with torch.no_grad():
        return model(noise((96, 128))[0])


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("pred_boxes", lambda x: x + torch.tensor([0.0, 0.0, 0.0, 0.1])),
        ("pred_boxes", lambda x: x + 5),
        ("scores", lambda x: x * 0.9),
        ("pred_classes", lambda x: (x + 1) % 20),
        ("pred_masks", lambda x: (x + 0.02).clamp(max=1)),
        ("pred_masks", lambda x: x * torch.nan),
    ],
)
def test_a_difference_of_any_output_is_an_error(outputs, name, change):
    other = outputs | {name: change(outputs[name])}
    comparison = compare(lambda image: outputs, lambda image: other, [torch.zeros(3, 1, 1)])
    with pytest.raises(ExportError, match="differs from the model"):
        comparison.check()


def test_missing_detections_are_an_error_and_another_order_is_not(outputs):
    images = [torch.zeros(3, 1, 1)]
    order = torch.randperm(len(outputs["scores"]))
    shuffled = {name: value[order] for name, value in outputs.items()}
    compare(lambda image: outputs, lambda image: shuffled, images).check()
    fewer = {name: value[1:] for name, value in outputs.items()}
    for one, other in ((outputs, fewer), (fewer, outputs)):
        comparison = compare(lambda image, one=one: one, lambda image, other=other: other, images)
        assert comparison.unmatched == 1
        with pytest.raises(ExportError, match="differs from the model"):
            comparison.check()


@pytest.mark.parametrize("scores", [[0.99], [0.001, 0.0005, 0.0002]])
def test_low_scores_and_single_detections_are_compared(scores):
    one = {
        "pred_boxes": torch.tensor([[0.0, 0.0, 9.0, 9.0]]).repeat(len(scores), 1),
        "scores": torch.tensor(scores),
        "pred_classes": torch.arange(len(scores)),
    }
    images = [torch.zeros(3, 1, 1)]
    compare(lambda image: one, lambda image: one, images).check()
    moved = one | {"pred_boxes": one["pred_boxes"] + 20}
    halved = one | {"scores": one["scores"] / 2}
    for other in ({name: x[:0] for name, x in one.items()}, moved, halved):
        comparison = compare(lambda image: one, lambda image, other=other: other, images)
        assert comparison.matched == 0
        with pytest.raises(ExportError, match=rf"0 of {len(scores)} detections equal"):
            comparison.check()


def test_detections_at_the_limits_of_the_model_may_be_missing():
    class Limited:
        limits = (0.05, 3)

        def __call__(self, image):
            return {
                "pred_boxes": torch.tensor([[0.0, 0.0, 9.0, 9.0]]).repeat(3, 1),
                "scores": torch.tensor([0.9, 0.8, 0.7]),
                "pred_classes": torch.arange(3),
            }

    model, images = Limited(), [torch.zeros(3, 1, 1)]
    fewer = {name: x[:2] for name, x in model(None).items()}
    assert compare(model, lambda image: fewer, images).unmatched == 0  # the third may be cut off
    first = {name: x[:1] for name, x in model(None).items()}
    assert compare(model, lambda image: first, images).unmatched == 1


def test_images_without_detections_prove_nothing(outputs):
    empty = {name: value[:0] for name, value in outputs.items()}
    comparison = compare(lambda image: empty, lambda image: empty, [torch.zeros(3, 1, 1)])
    with pytest.raises(ExportError, match="finds nothing in the 1 images"):
        comparison.check()


def test_a_size_that_the_export_cannot_take_is_an_error(outputs):
    def fails(image):
        raise RuntimeError("bad size\nand a long trace")

    with pytest.raises(ExportError, match=r"fails on an image of \(3, 1, 1\): bad size$"):
        compare(lambda image: outputs, fails, [torch.zeros(3, 1, 1)])


def test_test_time_augmentation_is_refused(model):
    tta = MultiViewInference.__new__(MultiViewInference)
    nn.Module.__init__(tta)
    with pytest.raises(ExportError, match="MultiViewInference cannot be exported"):
        TraceableModel(tta)


def test_a_missing_package_is_named_with_its_installation(monkeypatch):
    monkeypatch.setattr(export, "find_spec", lambda package: None)
    with pytest.raises(ImportError, match="ONNX needs onnx: pip install onnx onnxruntime"):
        export.require_onnx()
