"""Python blocks of all pages, run as they are, and their documented results."""

import pytest
import torch
from detectron2.config import instantiate
from detectron2.data import MetadataCatalog
from detectron2.utils.events import EventStorage

from d2_seesaw.engine import load_config
from d2_seesaw.losses import RecallLoss, SeesawLoss
from tests.support.markdown import PAGES, ROOT, code_blocks, name_of
from tests.test_yacs import training_step

# Excerpts of a file that another test runs.
EXCERPTS = {"examples/README.md"}
WITH_PYTHON = [
    name_of(page) for page in PAGES if code_blocks(page, "python") and name_of(page) not in EXCERPTS
]
OVERRIDES = ["dataloader.train.num_workers=0", "train.device=cpu"]


def run(page, containing=""):
    """Run the blocks of a page in one namespace and return it; blocks with a title are files."""
    names = {}
    for block in code_blocks(ROOT / page, "python"):
        if block.title:
            with open(block.title, "w") as file:
                file.write(block.text)
        elif containing in block.text:
            exec(compile(block.text, page, "exec"), names)
    return names


@pytest.mark.parametrize("page", WITH_PYTHON)
def test_the_blocks_of_a_page_run_in_their_order(page, reader):
    run(page)
    for config in reader.glob("*.py"):
        load_config(str(config), OVERRIDES)


def test_the_loss_of_the_readme_returns_two_losses_and_scores_with_background(reader):
    names = run("README.md", containing="loss.scores")
    assert set(names["losses"]) == {"loss_cls_classes", "loss_cls_objectness"}
    assert names["scores"].shape == (512, 1204)


def test_the_readme_gives_a_stock_model_the_seesaw_head(reader):
    with torch.device("meta"):
        model = instantiate(run("README.md", containing="model_zoo")["model"])
    predictor = model.roi_heads.box_predictor
    assert isinstance(predictor.cls_loss, SeesawLoss)
    assert predictor.cls_score.weight.shape == (1205, 1024)


def test_the_example_of_test_time_augmentation_keeps_the_size_of_the_image(reader):
    assert run("docs/first_steps.md")["instances"].image_size == (30, 40)


@pytest.mark.parametrize(("containing", "title"), [("LazyCall", "LazyConfig"), ("yacs", "yacs")])
def test_the_example_of_each_config_system_builds_and_trains(containing, title, reader):
    (block,) = [
        b for b in code_blocks(ROOT / "docs/other_projects.md", "python") if containing in b.text
    ]
    assert len(block.text.splitlines()) <= 24
    names = {}
    exec(compile(block.text, title, "exec"), names)
    loss = names["model"].roi_heads.box_predictor.cls_loss
    assert isinstance(loss, SeesawLoss)
    sum(training_step(names["model"]).values()).backward()
    assert loss.num_classes == 37
    assert loss.class_counts.sum() > 0


def test_the_dense_losses_have_finite_gradients(reader):
    assert run("docs/semantic.md", containing="randn")["logits"].grad.isfinite().all()


def test_the_config_with_another_dense_loss_builds_it(reader):
    run("docs/semantic.md")
    loss = instantiate(load_config("my_recall.py").model.sem_seg_head.loss)
    assert isinstance(loss, RecallLoss)
    assert loss.momentum == 0.9


def test_the_config_of_own_label_maps_trains(reader):
    run("docs/semantic.md")
    cfg = load_config("my_segmentation.py", OVERRIDES)
    assert cfg.train.output_dir == "output/mine"
    loader = instantiate(cfg.dataloader.train)
    cfg.model.backbone.stem.norm = "BN"
    model = instantiate(cfg.model)
    batch = [dict(next(iter(loader))[0], image=torch.rand(3, 64, 96)) for _ in range(2)]
    for image in batch:
        image["sem_seg"] = image["sem_seg"][:64, :96]
    assert set(batch[0]["sem_seg"].unique().tolist()) <= {0, 1, 2, 255}
    sum(model(batch).values()).backward()
    instantiate(cfg.dataloader.evaluator)


def own_config(page):
    """Return the config of own data on a page, with the counts of its training split."""
    run(page)
    cfg = load_config("my_config.py", OVERRIDES)
    assert cfg.train.output_dir == "output/mine"
    metadata = MetadataCatalog.get("my_val")
    assert metadata.evaluator_type == "lvis"
    assert [c["image_count"] for c in metadata.class_image_count] == [3, 2, 1]
    return cfg


def test_the_config_of_own_data_trains(reader):
    cfg = own_config("docs/own_data.md")
    assert cfg.model.roi_heads.num_classes == cfg.model.roi_heads.box_predictor.num_classes == 3
    assert cfg.dataloader.train.dataset.names == "my_train"
    assert cfg.dataloader.test.dataset.names == "my_val"
    # A small image and few RoIs, because the full-size model runs on a CPU.
    cfg.dataloader.train.mapper.augmentations = []
    cfg.model.roi_heads.batch_size_per_image = 16
    cfg.model.proposal_generator.post_nms_topk = [50, 20]
    cfg.dataloader.train.total_batch_size = 1
    loader = instantiate(cfg.dataloader.train)
    model = instantiate(cfg.model)
    (image,) = next(iter(loader))
    with EventStorage():
        losses = model([image])
    assert losses["loss_cls_classes"].isfinite()
    assert model.roi_heads.box_predictor.cls_loss.num_classes == 3


def test_the_examples_of_the_analysis_print_confusions_and_a_difference(reader, capsys):
    run("docs/metrics.md")
    printed = capsys.readouterr().out
    assert "'right': 3" in printed
    assert "2 of 5 name 1 are labeled name 4" in printed
    assert "MeanDifference(mean=" in printed
