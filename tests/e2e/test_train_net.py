"""train_net.py as a user calls it: short real trainings."""

import pytest
import torch

from d2_seesaw.cli.train import argument_parser, read_config

STEPS = 6


@pytest.fixture(scope="module")
def trained(train_net, tmp_path_factory):
    output = tmp_path_factory.mktemp("trained")
    options = [f"train.max_iter={STEPS}", "lr_multiplier.warmup_iters=4"]
    run = train_net(output, *options, report=True)
    run.output = output
    return run


def test_losses_and_accuracies_are_logged_by_name(trained):
    names = set().union(*trained.metrics)
    assert {
        "loss_cls_classes",
        "loss_cls_objectness",
        "loss_box_reg",
        "loss_mask",
        "fast_rcnn/cls_accuracy",
        "fast_rcnn/fg_cls_accuracy",
        "fast_rcnn/false_negative",
        "grad_norm",
        "lr",
        "bbox/APr",
        "segm/AP",
    } <= names


def test_model_config_and_results_are_saved(trained):
    for name in (
        "model_final.pth",
        "model_final.thresholds.json",
        "config.yaml",
        "metrics.json",
        "log.txt",
        "inference/lvis_instances_results.json",
        "inference/per_category_segm.csv",
        "inference/thresholds_segm.csv",
        "inference/confusion_segm.csv",
        "inference/longtail.html",
    ):
        assert (trained.output / name).is_file(), name


def test_the_names_of_the_classes_are_saved_with_the_model(trained):
    metadata = torch.load(trained.output / "model_final.pth", weights_only=True)["metadata"]
    assert metadata["dataset"] == "quickstart_train"
    assert len(metadata["class_names"]) == 20
    assert metadata["category_ids"] == list(range(1, 21))


def test_class_counts_count_the_sampled_rois(trained):
    state = torch.load(trained.output / "model_final.pth")["model"]
    counts = state["roi_heads.box_predictor.cls_loss.class_counts"]
    assert counts.dtype == torch.int64
    # 4 images a step, at most 48 RoIs each; fewer if there are too few background proposals.
    assert STEPS * 4 * 10 < counts.sum() <= STEPS * 4 * 48


def test_eval_only_repeats_the_metrics_of_training(trained, train_net, printed_table, tmp_path):
    checkpoint = f"train.init_checkpoint={trained.output / 'model_final.pth'}"
    again = train_net(tmp_path, "--eval-only", checkpoint)
    assert printed_table(again.text) == printed_table(trained.text)


@pytest.mark.slow
def test_test_time_augmentation_evaluates_through_the_views_of_the_config(
    trained, train_net, printed_table, tmp_path
):
    checkpoint = f"train.init_checkpoint={trained.output / 'model_final.pth'}"
    one = ["tta.scales=[[144,144]]", "tta.flip=False"]
    plain = train_net(tmp_path / "one", "--eval-only", "--tta", checkpoint, *one)
    assert printed_table(plain.text) == printed_table(trained.text)
    few = "tta.scales=[144,168]"
    several = train_net(tmp_path / "several", "--eval-only", "--tta", checkpoint, few)
    assert printed_table(several.text).keys() == {"bbox", "segm"}
    assert printed_table(several.text) != printed_table(trained.text)
    assert (tmp_path / "several/inference_tta/lvis_instances_results.json").is_file()


def test_evaluating_in_the_folder_of_a_training_keeps_its_config(trained, train_net):
    before = (trained.output / "config.yaml").read_text()
    model = f"train.init_checkpoint={trained.output / 'model_final.pth'}"
    train_net(trained.output, "--eval-only", model, "train.max_iter=1")
    assert (trained.output / "config.yaml").read_text() == before
    assert "max_iter: 1" in (trained.output / "config_eval.yaml").read_text()


def test_the_saved_config_evaluates_as_well(trained, train_net, printed_table, tmp_path):
    checkpoint = f"train.init_checkpoint={trained.output / 'model_final.pth'}"
    config = str(trained.output / "config.yaml")
    again = train_net(tmp_path, "--eval-only", checkpoint, config=config)
    assert printed_table(again.text) == printed_table(trained.text)


@pytest.mark.slow
def test_resume_continues_where_training_stopped(train_net, tmp_path):
    schedule = "lr_multiplier.max_iter=100"
    train_net(tmp_path, "train.max_iter=2", schedule)
    resumed = train_net(tmp_path, "--resume", "train.max_iter=4", schedule)
    assert "Starting training from iteration 2" in resumed.text
    assert [m["iteration"] for m in resumed.metrics if "total_loss" in m][-1] == 3
    state = torch.load(tmp_path / "model_final.pth")
    assert state["iteration"] == 3


def test_epochs_become_steps_from_the_repeated_images(train_net, tmp_path):
    run = train_net(
        tmp_path,
        "train.max_iter=null",
        "train.epochs=0.1",
        "dataloader.train.sampling.rounding=ceil",
    )
    assert "0.1 epochs of" in run.text
    (line,) = [x for x in run.text.splitlines() if "0.1 epochs of" in x]
    images = int(line.split("epochs of ")[1].split()[0])
    assert images > 120  # repeated
    steps = -(-images // 40)
    assert line.endswith(f"{steps} steps")
    assert f"max_iter: {steps}" in (tmp_path / "config.yaml").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_mixed_precision_accumulation_and_clipping_train(train_net, tmp_path, dtype):
    run = train_net(
        tmp_path,
        "train.max_iter=2",
        "train.amp.enabled=True",
        f"train.amp.dtype={dtype}",
        "train.accumulate_steps=2",
        "train.clip_grad.max_norm=1.0",
        "dataloader.train.total_batch_size=2",
    )
    losses = [m["total_loss"] for m in run.metrics if "total_loss" in m]
    assert all(0 < loss < 20 for loss in losses)


EMA = ["train.ema.enabled=True", "train.ema.decay=0.5", "dataloader.train.total_batch_size=2"]


@pytest.mark.slow
def test_an_average_of_the_weights_is_evaluated_saved_and_resumed(
    train_net, printed_table, tmp_path
):
    schedule = ["lr_multiplier.max_iter=100", "lr_multiplier.warmup_iters=1"]
    train_net(tmp_path, "train.max_iter=2", *EMA, *schedule)
    average = torch.load(tmp_path / "model_final.pth")["trainer"]["hooks"]["EMAHook"]["model"]
    run = train_net(tmp_path, "--resume", "train.max_iter=3", *EMA, *schedule)
    weights = torch.load(tmp_path / "model_final.pth")["model"]
    averaged = torch.load(tmp_path / "model_final_ema.pth")["model"]
    name = "roi_heads.box_head.fc1.weight"
    decay = 3 / 12  # the decay at the third step overall
    expected = decay * average[name] + (1 - decay) * weights[name]
    torch.testing.assert_close(averaged[name], expected)
    assert not torch.equal(averaged[name], weights[name])
    assert {"ema/segm/AP", "segm/AP"} <= set().union(*run.metrics)
    start, end = (run.text.index(f"Evaluation of the {w} weights") for w in ("averaged", "trained"))
    # Compilation must not change the results; it is tested here to save a run.
    compiled = ["train.compile.enabled=True", "train.compile.backend=eager"]
    model = f"train.init_checkpoint={tmp_path / 'model_final_ema.pth'}"
    again = train_net(tmp_path / "again", "--eval-only", model, *compiled)
    assert printed_table(again.text) == printed_table(run.text[start:end])


def test_a_part_to_compile_that_the_model_lacks_is_one_clear_error(train_net, tmp_path):
    arguments = ["train.compile.enabled=True", "train.compile.parts=[neck]", "train.max_iter=1"]
    run = train_net(tmp_path, *arguments, fails=True)
    assert "no part 'neck'. Its parts are ['backbone', 'proposal_generator'" in run.text


@pytest.mark.slow
def test_softmax_trains_from_its_own_config(train_net, tmp_path):
    run = train_net(tmp_path, "train.max_iter=2", config="configs/quickstart/softmax.py")
    assert "loss_cls" in set().union(*run.metrics)


@pytest.mark.slow
def test_scaling_prints_values_before_and_after(train_net, tmp_path):
    run = train_net(tmp_path, "--auto-scale-lr", "train.max_iter=4", "train.reference_world_size=2")
    assert "Scaled the recipe from 2 to 1 GPUs" in run.text
    assert "0.001 -> 0.0005" in run.text
    assert "max_iter: 8" in (tmp_path / "config.yaml").read_text()


@pytest.mark.slow
@pytest.mark.dist
@pytest.mark.parametrize("launcher", ["--num-gpus", "torchrun"])
def test_two_cpu_ranks_train_and_agree_on_the_counts(train_net, tmp_path, launcher):
    steps, arguments = 3, ["train.max_iter=3"]
    if launcher == "torchrun":
        start = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
        run = train_net(tmp_path, *arguments, launcher=start)
    else:
        run = train_net(tmp_path, "--num-gpus=2", *arguments)
    assert "World size: 2" in run.text
    assert "Long-tail results:" in run.text
    counts = torch.load(tmp_path / "model_final.pth")["model"][
        "roi_heads.box_predictor.cls_loss.class_counts"
    ]
    # 4 images a step over both ranks; one rank alone could reach half the maximum at most.
    assert steps * 2 * 48 < counts.sum() <= steps * 4 * 48


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--eval-only"], "--eval-only needs train.init_checkpoint"),
        (["--tta"], "--tta needs --eval-only"),
        (["dataloader.test.dataset.names=lvis_v1_val"], "MISSING"),
        (["train.max_iter=null"], r"give train.max_iter \(steps\) or train.epochs"),
    ],
)
def test_invalid_options_are_refused_with_the_config(arguments, message, datasets, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(datasets))
    config = ["--config-file", "configs/quickstart/seesaw.py"]
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read_config(argument_parser().parse_args([*config, *arguments]))


def test_invalid_options_are_one_line_errors_before_the_model_is_built(train_net, tmp_path):
    run = train_net(tmp_path, "train.max_itr=5", fails=True)
    assert "unknown key 'train.max_itr'; did you mean 'train.max_iter'" in run.text
    assert "GeneralizedRCNN(" not in run.text
    assert "Traceback" not in run.text


def test_test_time_augmentation_without_views_is_one_clear_error(trained, train_net, tmp_path):
    text = (trained.output / "config.yaml").read_text()
    config = tmp_path / "config.yaml"
    config.write_text(text[: text.index("\ntta:") + 1])
    model = f"train.init_checkpoint={trained.output / 'model_final.pth'}"
    run = train_net(tmp_path, "--eval-only", "--tta", model, config=str(config), fails=True)
    assert "has no `tta`. configs/common/tta.py has examples" in run.text
    assert "Traceback" not in run.text


def test_a_checkpoint_of_another_number_of_classes_is_one_clear_error(trained, train_net, tmp_path):
    saved = torch.load(trained.output / "model_final.pth")
    weights = saved["model"]
    for name in [name for name in weights if "box_predictor" in name and "bbox" not in name]:
        weights[name] = weights[name][:-13]  # 20 classes become 7
    torch.save({"model": weights}, tmp_path / "seven.pth")
    checkpoint = f"train.init_checkpoint={tmp_path / 'seven.pth'}"
    run = train_net(tmp_path, "--eval-only", checkpoint, fails=True)
    assert "it was trained with 7 classes, the model has 20" in run.text


@pytest.mark.parametrize(
    ("flags", "missing"),
    [([], "lr_multiplier, optimizer"), (["--eval-only", "train.init_checkpoint={}"], None)],
)
def test_missing_parts_of_a_config_are_reported(flags, missing, tmp_path):
    (tmp_path / "c.py").write_text("model = {}\ndataloader = {}\ntrain = {'max_iter': 1}\n")
    flags = [flag.format(tmp_path / "c.py") for flag in flags]  # an existing file
    arguments = argument_parser().parse_args(["--config-file", str(tmp_path / "c.py"), *flags])
    if missing is None:
        read_config(arguments)
    else:
        with pytest.raises(ValueError, match=f"c.py has no {missing}: start from a shipped config"):
            read_config(arguments)
