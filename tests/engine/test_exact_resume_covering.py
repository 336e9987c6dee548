"""Resumed trainings through the configs, over pairs of options. The oracle is a run in one part.

The model is the quickstart's, made small; the images are generated, in both orientations.
"""

import contextlib
import hashlib
import itertools
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import LazyConfig
from detectron2.data import DatasetCatalog, transforms
from detectron2.engine import hooks
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng

from d2_seesaw.cli.train.training import build_trainer
from d2_seesaw.data import (
    InstaBoost,
    InstanceAugmentationDatasetMapper,
    RandomSampling,
    register_longtail_instances,
)
from d2_seesaw.engine import load_config
from d2_seesaw.layers import mask_predictor
from d2_seesaw.modeling import FederatedRCNN
from d2_seesaw.synthetic.instances import LongTailSpec, generate_longtail_dataset
from d2_seesaw.synthetic.profile import DEMO_PROFILE
from tests.support.ranks import run_on_ranks

FACTORS = {
    "workers": [0, 2, 4],
    "workers_after": [0, 2, 4],
    "ranks": [1, 2],
    "precision": ["float32", "bfloat16", "float16"],
    "accumulate": [1, 2],
    "sampling": ["random", "repeat"],
    "grouping": [True, False],
    "augmentation": ["flip", "instaboost"],
    "ema": [True, False],
}
STOPS = (3, 5, 8, None)  # checkpoints follow every second step
STEPS = 10
SPLITS = {"tall": (64, 48), "wide": (48, 64)}


def covering(factors, size, seed=0):
    """Choose cases that together have every pair of values, each the best of many random ones."""
    rng = random.Random(seed)
    missing = {
        ((a, x), (b, y))
        for a, b in itertools.combinations(factors, 2)
        for x, y in itertools.product(factors[a], factors[b])
    }
    cases = []
    while missing or len(cases) < size:
        drawn = [{n: rng.choice(values) for n, values in factors.items()} for _ in range(300)]
        best = max(drawn, key=lambda c: len(missing.intersection(pairs(c))))
        missing -= set(pairs(best))
        cases.append(best)
    return cases


def pairs(case):
    return itertools.combinations(case.items(), 2)


CASES = covering(FACTORS, 24)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    profile = replace(DEMO_PROFILE, full_scale_images=1000)
    for seed, (split, size) in enumerate(SPLITS.items()):
        spec = LongTailSpec(
            4, 14, 4, size, seed=seed, profile=profile, min_val_images=1, objects_per_image=(2, 3)
        )
        generate_longtail_dataset(folder / split, spec, progress=False)
    return folder


def register(data):
    for split in SPLITS:
        for part in ("train", "val"):
            if (name := f"resume_{split}_{part}") not in DatasetCatalog.list():
                file = data / split / f"lvis_{part}.json"
                register_longtail_instances(name, json_file=file, image_root=data / split)


class WeightSum(DatasetEvaluator):
    """An evaluator whose result depends on the scores of the model."""

    def reset(self):
        self.sum = 0.0

    def process(self, inputs, outputs):
        self.sum += sum(float(output["instances"].scores.sum()) for output in outputs)

    def evaluate(self) -> Any:
        sums = comm.gather(self.sum)
        return {"bbox": {"score": float(sum(sums))}} if comm.is_main_process() else {}


def config(case, output, workers):
    """Return the quickstart's config with fewer channels, smaller images and the options."""
    cfg = load_config("quickstart/seesaw")
    bottom_up = cfg.model.backbone.bottom_up
    bottom_up.stem.out_channels = 8
    for stage, widths in zip(bottom_up.stages, [(8, 8), (8, 12), (12, 16), (16, 20)], strict=True):
        stage.in_channels, stage.out_channels = widths
    cfg.model.backbone.out_channels = 8
    cfg.model.proposal_generator.head.in_channels = 8
    heads = cfg.model.roi_heads
    set_loss(cfg, case.get("loss", "seesaw"))
    heads.num_classes = 4
    heads.batch_size_per_image = 16
    heads.box_head.input_shape.channels = 8
    heads.box_head.fc_dims = [16]
    heads.box_predictor.input_shape.channels = 16
    heads.box_predictor.test_score_thresh = 0.0
    heads.mask_head.predictor = L(mask_predictor)()
    heads.mask_head.input_shape.channels = 8
    heads.mask_head.conv_dims = [8]
    train = cfg.dataloader.train
    train.dataset.names = [f"resume_{split}_train" for split in SPLITS]
    if case["sampling"] == "random":
        train.sampling = L(RandomSampling)()
    else:
        train.sampling.threshold = 0.9
    if case["augmentation"] == "instaboost":
        train.mapper = L(InstanceAugmentationDatasetMapper)(
            is_train=True,
            instance_augmentation=L(InstaBoost)(image_format="BGR"),
            augmentations=[
                L(transforms.RandomFlip)(),
                L(transforms.RandomCrop)(crop_type="relative_range", crop_size=(0.5, 0.5)),
                L(transforms.RandomBrightness)(intensity_min=0.5, intensity_max=1.5),
            ],
            image_format="BGR",
            use_instance_mask=True,
        )
    train.aspect_ratio_grouping = case["grouping"]
    train.total_batch_size = 4
    train.num_workers = workers
    cfg.dataloader.test.dataset.names = [f"resume_{split}_val" for split in SPLITS]
    cfg.dataloader.test.num_workers = 0
    cfg.dataloader.evaluator = L(WeightSum)()
    cfg.lr_multiplier.warmup_iters = 3
    options = {
        "output_dir": str(output),
        "max_iter": STEPS,
        "accumulate_steps": case["accumulate"],
        "amp": {"enabled": case["precision"] != "float32", "dtype": case["precision"]},
        "ema": {"enabled": case["ema"], "decay": 0.9, "warmup": True},
        "checkpointer": {"period": 2, "max_to_keep": None},
        "eval_period": 4,
        "log_period": 3,
        "device": "cpu",
    }
    if case["precision"] == "float16":
        cfg.optimizer.lr = 1e-4
    cfg.train.update(options)
    return cfg


def set_loss(cfg, name):
    """Set the classification loss; the federated ones leave out some of the four classes."""
    part = LazyConfig.load("configs/common/heads/classification.py", name)
    if name == "federated":
        part.cls_loss.num_sampled = 3
    if name == "federated_seesaw":
        cfg.model.update(L(FederatedRCNN)())
    cfg.model.roi_heads.box_predictor.update(part)


class Stopped(BaseException):
    """Interruption of a training."""


def train(case, output, workers, *, resume, stop):
    """Train a part; return the trainer and digests of the batches that the model was shown."""
    output.mkdir(exist_ok=True)
    cfg = config(case, output, workers)
    seed = random.randrange(1000) if resume else 3
    cfg.train.seed = -1 if resume else 3
    seed_all_rng(seed + comm.get_rank())
    trainer, first = build_trainer(cfg, resume=resume)
    shown = {}

    def record(model, args):
        if model.training:
            shown.setdefault(trainer.iter, []).append(digest(args[0]))

    def interrupt(trainer):
        if trainer.iter == stop:
            raise Stopped

    trainer.model.register_forward_pre_hook(record)
    trainer.register_hooks([hooks.CallbackHook(before_step=interrupt)])
    with contextlib.suppress(Stopped):
        trainer.train(first, STEPS)
    return trainer, shown


def digest(batch):
    found = hashlib.sha256()
    for image in batch:
        instances = image["instances"]
        masks = getattr(instances.gt_masks, "tensor", None)
        polygons = [p.tobytes() for m in getattr(instances.gt_masks, "polygons", []) for p in m]
        for part in (image["image"], instances.gt_boxes.tensor, instances.gt_classes, masks):
            found.update(b"" if part is None else part.contiguous().numpy().tobytes())
        found.update(b"".join(polygons) + Path(image["file_name"]).name.encode())
    return found.hexdigest()


def tensors(state, path=""):
    """Yield the tensors and numbers in nested state by their path."""
    if isinstance(state, dict | list | tuple):
        items = state.items() if isinstance(state, dict) else enumerate(state)
        for key, value in items:
            yield from tensors(value, f"{path}/{key}")
    else:
        yield path, state


def final_state(trainer):
    """Return all state of this rank but times, with its own buffers."""
    state = trainer.state_dict()
    for name in ("scalars", "resume"):
        del state[name]
    hooks_of = {"hooks": state.pop("hooks", {})}
    return dict(tensors([trainer.model.state_dict(), state, hooks_of]))


def records_of(output):
    lines = [json.loads(line) for line in (output / "metrics.json").open()]
    timed = ("time", "data_time", "rank_data_time", "eta_seconds")
    lines = [{k: v for k, v in line.items() if k not in timed} for line in lines]
    evaluations = [json.loads(line) for line in (output / "evaluations.jsonl").open()]
    lines.sort(key=lambda line: line["iteration"])
    # As text, because NaN differs from itself. The mask accuracy of no objects is NaN.
    return json.dumps(lines, indent=0), json.dumps(evaluations, indent=0)


def compare(case, data, output):
    """Train in one part and in four; return what differs and the number of images compared."""
    register(data)
    straight, expected = train(case, output / "a", case["workers"], resume=False, stop=None)
    shown, before, trainer = {}, case["workers"], straight
    for number, stop in enumerate(STOPS):
        workers = case["workers_after"] if number % 2 else before
        trainer, part = train(case, output / "b", workers, resume=number > 0, stop=stop)
        shown |= part
    a, b = final_state(straight), final_state(trainer)
    different = [key for key in a.keys() | b.keys() if not same(a.get(key), b.get(key))]
    different += [f"batches of step {i}" for i in expected if expected[i] != shown.get(i)]
    if comm.is_main_process():
        records = zip(*(records_of(output / name) for name in ("a", "b")), strict=True)
        different += [f"{one} instead of {other}" for one, other in records if one != other]
    if sorted(shown) != list(range(STEPS)) or len(expected[0]) != case["accumulate"]:
        different.append("steps")
    return different, len(a)


def same(a, b):
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return torch.equal(a, b)
    return a == b or (isinstance(a, float) and np.isnan(a) and np.isnan(b))


def test_the_cases_have_every_pair_of_values():
    every = {frozenset(pair) for case in CASES for pair in pairs(case)}
    counts = [len(values) for values in FACTORS.values()]
    assert len(every) == sum(a * b for a, b in itertools.combinations(counts, 2))
    assert len(CASES) <= 26


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda c: "-".join(map(str, c.values())))
def test_a_training_in_four_parts_equals_one_in_one_part(case, data, tmp_path):
    results = run_on_ranks(compare, case, data, tmp_path, world_size=case["ranks"], timeout=280)
    assert all(compared > 100 for _, compared in results)
    assert [different for different, _ in results] == [[]] * case["ranks"]


# Random draws, sums of gradients over the ranks, and data of each image.
@pytest.mark.slow
@pytest.mark.parametrize("loss", ["federated", "equalization_v2", "federated_seesaw"])
def test_a_training_with_another_loss_equals_one_in_one_part(loss, data, tmp_path):
    case = {n: values[-1] for n, values in FACTORS.items()}
    case |= {"loss": loss, "precision": "float32", "augmentation": "flip", "workers": 0}
    results = run_on_ranks(compare, case, data, tmp_path, world_size=2, timeout=280)
    assert [different for different, _ in results] == [[]] * 2
