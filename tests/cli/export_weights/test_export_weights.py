"""`d2-seesaw export-weights`: the weights, the config and the model card that it writes."""

import json
import os
import re
import shlex

import pytest
import torch
import yaml
from detectron2.config import LazyConfig
from omegaconf import OmegaConf
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from d2_seesaw import __version__
from d2_seesaw.cli import export_weights, main
from d2_seesaw.cli.export_weights.model_card import markdown_text, read_metrics
from d2_seesaw.cli.export_weights.shared_config import without_private_values
from d2_seesaw.engine import load_config
from d2_seesaw.inference import load_predictor
from tests.inference.models import mask_rcnn
from tests.inference.test_predictor import METADATA, save_run

HOSTILE = ["<script>x</script>", "a|b\n# c", "[x](http://e.com) *`y`*", "---"]
NAMES = HOSTILE + METADATA["class_names"][len(HOSTILE) :]
PRIVATE = ("/home/anna", "anna", "gpu17", "lab.example", "secret")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Write a finished run whose config and metadata name places of a machine."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    save_run(
        folder,
        mask_rcnn(),
        {**METADATA, "class_names": NAMES},
        "quickstart/seesaw",
        "train.init_checkpoint=/home/anna/secret/R-50.pkl",
        "train.wandb.entity=anna",
        "train.mlflow.tracking_uri='http://anna:secret@gpu17.lab.example:5000'",
        "dataloader.evaluator.output_dir=/home/anna/secret/inference",
        "+dataloader.test.dataset.filter_empty=false",
    )
    path = folder / "model_final.pth"
    content = torch.load(path)
    torch.save(
        {**content, "iteration": 599, "trainer": {"optimizer": {"state": torch.ones(9)}}}, path
    )
    records = [
        (200, {"bbox/AP": 1.0, "rpn/num_pos_anchors": 4.0}),
        (201, {"bbox/AP": 2.0}),
        (600, {"bbox/AP": 48.97, "bbox/APr": float("nan"), "bbox/AP-x": 3.0}),
        (600, {"segm/AP": 42.2, "ema/bbox/AP": 50.0}),
    ]
    lines = [json.dumps({"steps": steps, "results": results}) for steps, results in records]
    lines.append('{"steps": 600, "results": {"bbox/AP": 4')
    (folder / "evaluations.jsonl").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def shared(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("out") / "shared"
    before = os.umask(0o027)
    try:
        export_weights.main([str(run / "model_final.pth"), "--output", str(folder)])
    finally:
        os.umask(before)
    return folder


def test_the_weights_are_bit_equal_and_alone(run, shared):
    expected = torch.load(run / "model_final.pth")["model"]
    found = load_file(shared / "model.safetensors")
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value), name
    assert found["roi_heads.box_predictor.cls_loss.class_counts"].dtype == torch.int64


def test_class_names_ids_and_format_version_are_in_the_header(shared):
    with safe_open(shared / "model.safetensors", "pt") as file:
        header = file.metadata()
    assert json.loads(header["class_names"]) == NAMES
    assert json.loads(header["category_ids"]) == METADATA["category_ids"]
    assert (header["d2_seesaw_format"], header["format"]) == ("1", "pt")


def test_three_files_with_the_mode_of_new_files_are_written(shared):
    assert sorted(os.listdir(shared)) == ["README.md", "config.yaml", "model.safetensors"]
    assert {os.stat(file).st_mode & 0o777 for file in shared.iterdir()} == {0o640}


def test_the_config_is_that_of_the_training_without_places_and_accounts(run, shared):
    for file in shared.iterdir():
        assert not [word for word in PRIVATE if word.encode() in file.read_bytes()], file.name
        assert str(run).encode() not in file.read_bytes()
    before, after = (load_config(str(folder / "config.yaml")) for folder in (run, shared))
    assert after.model == before.model
    assert after.dataloader.evaluator.output_dir == "inference"
    assert after.train.output_dir == "output/config"  # from the name of the file
    assert after.train.max_iter == before.train.max_iter


def test_the_model_predicts_as_the_checkpoint_does(run, shared, tmp_path):
    Image.effect_noise((96, 96), 80).convert("RGB").save(tmp_path / "a.png")
    ours, theirs = (
        load_predictor(path, device="cpu")
        for path in (shared / "model.safetensors", run / "model_final.pth")
    )
    one, other = (p(tmp_path / "a.png")["instances"] for p in (ours, theirs))
    assert len(one) > 0
    assert torch.equal(one.scores, other.scores)
    assert torch.equal(one.pred_boxes.tensor, other.pred_boxes.tensor)
    assert ours.class_names == NAMES


def test_the_commands_of_the_card_work_in_its_folder(shared, monkeypatch, tmp_path):
    card = (shared / "README.md").read_text()
    for file in ("model.safetensors", "config.yaml"):
        (tmp_path / file).symlink_to(shared / file)
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (64, 64)).save("image.jpg")
    (command,) = re.findall("```bash\n(.*?)```", card, re.DOTALL)
    assert main(shlex.split(command)[1:]) == 0
    assert json.loads((tmp_path / "predictions/results.json").read_text()) is not None
    (code,) = re.findall("```python\n(.*?)```", card, re.DOTALL)
    names = {}
    exec(code, names)
    assert names["output"].image_size == (64, 64)


def test_the_card_says_what_the_model_is_and_asks_for_a_license(shared):
    card = (shared / "README.md").read_text()
    rows = dict(re.findall(r"^\| ([\w ]+) \| (.*) \|$", card, re.M))
    assert rows["architecture"] == "GeneralizedRCNN"
    assert rows["classification loss"] == "SeesawLoss"
    assert rows["training steps"] == "600"
    assert rows["training data"] == "d"
    assert rows["d2_seesaw"].startswith(__version__)
    assert rows["boxes"] == "48.97 | n/a"
    assert rows["masks"] == "42.20 | n/a"
    assert "**choose a license**" in card
    assert "20 classes" in card


def test_the_front_matter_is_accepted_by_the_parser_of_the_hub(shared):
    hub = pytest.importorskip("huggingface_hub")
    data = hub.ModelCard.load(shared / "README.md").data.to_dict()
    assert data["pipeline_tag"] == "image-segmentation"
    assert (data["license"], data["license_name"]) == ("other", "choose-a-license")
    text = (shared / "README.md").read_text()
    assert yaml.safe_load(text.split("---")[1]) == data


def test_names_of_classes_are_text_in_the_card(shared):
    card = (shared / "README.md").read_text()
    (names,) = re.findall("## Classes\n\n(.*)\n$", card)  # one line
    assert "<" not in names
    assert not re.search(r"(?<!\\)[|`*\[#]", names)
    assert markdown_text("a\n\x1b[0m\u202eb") == "a \N{REPLACEMENT CHARACTER}\\[0m\ufffdb"


def refusal(*arguments):
    with pytest.raises(SystemExit) as end:
        export_weights.main([str(a) for a in arguments])
    line = str(end.value.code)
    assert line.startswith("d2-seesaw export-weights: ")
    return line


def test_a_folder_with_other_files_is_refused_unless_they_may_be_replaced(run, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    arguments = [run / "model_final.pth", "--output", tmp_path]
    assert "is not empty: choose another --output, or --overwrite" in refusal(*arguments)
    assert os.listdir(tmp_path) == ["notes.txt"]
    export_weights.main([*map(str, arguments), "--overwrite"])
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert "train.mlflow.tracking_uri" in capsys.readouterr().out
    file = tmp_path / "notes.txt"
    assert "is not a folder" in refusal(arguments[0], "--output", file, "--overwrite")


def test_what_cannot_be_exported_is_one_line_and_leaves_no_folder(run, tmp_path):
    out = tmp_path / "out"
    assert "m.pth' does not exist" in refusal(tmp_path / "m.pth", "--output", out)
    (tmp_path / "m.pth").write_bytes((run / "model_final.pth").read_bytes())
    assert "--config-file FILE" in refusal(tmp_path / "m.pth", "--output", out)
    config = ["--config-file", run / "config.yaml", "--output", out]
    content = torch.load(run / "model_final.pth")
    content["model"].popitem()
    torch.save(content, tmp_path / "m.pth")
    assert "missing in the checkpoint" in refusal(tmp_path / "m.pth", *config)
    (tmp_path / "m.pth").write_bytes(b"PK\x03\x04")
    assert "m.pth cannot be read: it is truncated" in refusal(tmp_path / "m.pth", *config)
    assert not out.exists()


@pytest.mark.parametrize(
    ("key", "given", "kept"),
    [
        ("train.init_checkpoint", "detectron2://ImageNetPretrained/R-50.pkl", None),
        ("train.init_checkpoint", "models/mine.pth", ""),
        ("model.backbone.norm", "/data/x y/norm.json", "norm.json"),
        ("model.backbone.norm", "~/x/norm.json", "norm.json"),
        ("model.backbone.norm", "C:\\Users\\x\\norm.json", "norm.json"),
        ("model.backbone.norm", "see /data/x/norm.json, please", "see norm.json, please"),
        ("model.backbone.norm", "s3://bucket/x/norm.json?key=1", "norm.json"),
        ("model.backbone.norm", "https://host:80", ""),
        ("model.backbone.norm", "../x/norm.json", "norm.json"),
        ("model.backbone.norm", "BN", None),
        ("model.backbone.norm", "a/b and/or ${model.input_format}/c", None),
        ("dataloader.train.dataset.json_file", "data/x/train.json", "train.json"),
        ("dataloader.train.dataset.image_root", "${train.output_dir}/images", None),
    ],
)
def test_places_are_shortened_to_their_last_part(key, given, kept):
    cfg = LazyConfig.load("configs/quickstart/seesaw.py")
    parent, _, name = key.rpartition(".")
    OmegaConf.select(cfg, parent)[name] = given
    shared, changed = without_private_values(cfg)
    value = OmegaConf.select(shared, parent)._get_node(name)._value()
    assert value == (given if kept is None else kept)
    assert (key in changed) == (kept is not None)


def test_metrics_are_those_of_the_weights(run):
    path = run / "evaluations.jsonl"
    assert read_metrics(path, 200) == {"bbox": {"AP": 1.0}}
    assert read_metrics(path, 600, averaged=True) == {"bbox": {"AP": 50.0}}
    assert read_metrics(path, 300) == {}
    assert read_metrics(run / "none.json", 600) == {}
