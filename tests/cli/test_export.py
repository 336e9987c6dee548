"""`d2-seesaw export`: its files, and what happens where a format does not work."""

import json

import numpy as np
import pytest
import torch
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, Instances

from d2_seesaw.cli import export
from d2_seesaw.inference import load_predictor
from d2_seesaw.inference.export import TraceableModel
from d2_seesaw.inference.export_comparison import ExportError
from tests.inference.models import mask_rcnn, picture
from tests.inference.test_predictor import NAMES, save_run
from tests.support.markdown import ROOT, code_blocks

pytest.importorskip("onnxruntime", reason="pip install onnx onnxruntime")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("run")
    picture(folder / "a.png")
    return save_run(folder, mask_rcnn())


def full_masks(outputs, image):
    """Return the masks at the size of the image, by Detectron2."""
    found = Instances(
        tuple(image.shape[1:]),
        pred_boxes=Boxes(torch.from_numpy(outputs["pred_boxes"])),
        pred_masks=torch.from_numpy(outputs["pred_masks"]),
    )
    return detector_postprocess(found, *found.image_size).pred_masks.numpy()


def call(run, output, *arguments):
    images = str(run.with_name("a.png"))
    export.main([str(run), "--images", images, "--output", str(output), *arguments])


def test_both_formats_are_written_checked_and_described(run, tmp_path, capfd):
    call(run, tmp_path / "out")
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        *("model.torchscript", "model.onnx", "export.json")
    }
    about = json.loads((tmp_path / "out/export.json").read_text())
    assert about["class_names"] == NAMES
    assert about["category_ids"] == list(range(5, 25))
    assert list(about["outputs"]) == ["pred_boxes", "pred_classes", "pred_masks", "scores"]
    # The image, and a part of it with another size.
    assert all(text.startswith("2 images: ") for text in about["checked"].values())
    assert capfd.readouterr().out.count("\n") == 3

    # The code on the page runs the file, and pastes masks as Detectron2 does.
    (block,) = code_blocks(ROOT / "docs/export.md", "python")
    names = {}
    exec(compile(block.text, "docs/export.md", "exec"), names)
    found, classes = names["detect"](str(tmp_path / "out"), str(run.with_name("a.png")))
    predictor = load_predictor(run, device="cpu")
    image = predictor.inputs(run.with_name("a.png"))["image"]
    with torch.no_grad():
        expected = TraceableModel(predictor.model)(image)
    assert classes == [NAMES[i] for i in expected["pred_classes"]]
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=1e-3)
    for i, mask in enumerate(full_masks(found, image)):
        pasted = names["full_mask"](
            found["pred_boxes"][i], found["pred_masks"][i], *image.shape[1:]
        )
        assert (pasted != mask).mean() < 1e-3


def test_a_format_that_does_not_work_is_named_and_the_other_is_kept(
    run, tmp_path, capsys, monkeypatch
):
    def fails(model, path, image, *, opset):
        path.write_text("half")
        raise ExportError("no such operator")

    monkeypatch.setattr(export, "export_onnx", fails)
    with pytest.raises(SystemExit, match=r"model\.onnx was not written: no such operator"):
        call(run, tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"model.torchscript", "export.json"}
    assert "model.torchscript" in capsys.readouterr().out


def test_files_of_an_earlier_export_are_replaced_together_or_not_at_all(run, tmp_path):
    (tmp_path / "model.onnx").write_text("another model")
    with pytest.raises(SystemExit, match=r"has model\.onnx of an earlier export.*--overwrite"):
        call(run, tmp_path, "--format", "torchscript")
    call(run, tmp_path, "--format", "torchscript", "--overwrite")
    assert {p.name for p in tmp_path.iterdir()} == {"model.torchscript", "export.json"}


def test_an_image_that_the_model_cannot_take_is_named_with_its_size(run, tmp_path, monkeypatch):
    def fails(model, image):
        raise RuntimeError("kernel larger than input\nand more")

    monkeypatch.setattr(TraceableModel, "forward", fails)
    with pytest.raises(
        SystemExit, match=r"cannot run on .*a\.png, which has \d+ x \d+ pixels.*input$"
    ):
        call(run, tmp_path)


def test_a_model_that_differs_is_not_kept(run, tmp_path, monkeypatch):
    def other(path, names):
        return lambda image: dict.fromkeys(names, torch.zeros(1))

    monkeypatch.setattr(export, "load_torchscript", other)
    with pytest.raises(SystemExit, match="was not written"):
        call(run, tmp_path, "--format", "torchscript")
    assert not list(tmp_path.iterdir())
