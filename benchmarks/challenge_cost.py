"""What each step of the winning LVIS 2020 entry costs: parameters, GFLOPs, seconds of a small one.

    python benchmarks/challenge_cost.py
    python benchmarks/challenge_cost.py --steps 0 9

Parameters and GFLOPs are those of configs/challenge at 1,203 classes. A FLOP is half a
multiply-add. They are counted for an image of 1280 x 1280 that goes through backbone, neck and RPN
head, 1,000 proposals through the box stages and 300 detections through the mask head; convolutions,
deformable ones included, and matrix products count, re-assembly (CARAFE), pooling and activations
do not. Backbone and RPN are counted on torch's meta device, without computing anything. With
test-time augmentation each view goes through the backbone twice, for boxes and then for masks, and
once through each head; the count is that of square views.

Seconds are those of the small versions (configs/challenge_small), on the CPU, one thread: the
median over images of 144 x 144 of inference with random weights. They take turns within each round.
"""

import argparse
import statistics
import time
from pathlib import Path

import torch
from detectron2.config import instantiate
from detectron2.structures import Boxes, ImageList, Instances
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, register_flop_formula

from d2_seesaw.engine import load_config

SIZE = 1280


@register_flop_formula(torch.ops.torchvision.deform_conv2d)
def deform_conv_flop(x_shape, w_shape, *_args, out_shape=None, **_kwargs) -> int:
    """FLOPs of the convolution behind the sampling; its offsets are a convolution of their own."""
    batch, _, height, width = out_shape
    out_channels, in_channels, *kernel = w_shape
    return 2 * batch * height * width * out_channels * in_channels * kernel[0] * kernel[1]


def model_of(path: Path) -> nn.Module:
    """The model of a config, with random weights."""
    cfg = load_config(str(path))
    if "pretrained" in cfg.model.backbone.bottom_up:
        cfg.model.backbone.bottom_up.pretrained = False
    return instantiate(cfg.model).eval()


def with_views(path: Path, model: nn.Module) -> nn.Module:
    """The model, or its test-time augmentation where the step has one."""
    if not view_sizes(path):
        return model
    cfg = load_config(str(path))
    cfg.tta.model = model
    return instantiate(cfg.tta)


@torch.no_grad()
def gflops(path: Path) -> tuple[float, float]:
    """Of backbone, neck and RPN head, and of the ROI heads, in 1e9 FLOPs."""
    with torch.device("meta"):
        model = model_of(path)
        images = torch.zeros(1, 3, SIZE, SIZE)
        with FlopCounterMode(display=False) as dense:
            features = model.backbone(images)
            rpn = model.proposal_generator
            rpn.rpn_head([features[name] for name in rpn.in_features])
    heads = model.roi_heads.to_empty(device="cpu")
    for parameter in heads.parameters():
        nn.init.normal_(parameter, std=1e-3)
    for buffer in heads.buffers():
        buffer.fill_(1)
    features = {name: torch.randn(map_.shape) for name, map_ in features.items()}
    with FlopCounterMode(display=False) as sparse:
        run_heads(heads, features)
    views = view_sizes(path)
    areas = 2 * sum(size**2 for size in views) / SIZE**2 if views else 1
    return (
        areas * dense.get_total_flops() / 1e9,
        max(len(views), 1) * sparse.get_total_flops() / 1e9,
    )


def view_sizes(path: Path) -> list[int]:
    """Long edges of the views of a step that has test-time augmentation."""
    cfg = load_config(str(path))
    return [long for _, long in cfg.tta.scales for _ in range(2)] if "tta" in path.stem else []


def run_heads(heads: nn.Module, features: dict[str, torch.Tensor]) -> None:
    """1,000 proposals through the box stages, 300 detections through the mask head."""
    predictors = heads.box_predictor
    for predictor in predictors if isinstance(predictors, nn.ModuleList) else [predictors]:
        predictor.test_score_thresh = 2.0  # no detections of its own
    images = ImageList(torch.zeros(1, 3, SIZE, SIZE), [(SIZE, SIZE)])
    heads(images, features, [instances(1000, "proposal_boxes")])
    given = instances(300, "pred_boxes")
    given.pred_classes = torch.arange(300)
    given.scores = torch.ones(300)
    heads.forward_with_given_boxes(features, [given])


def instances(number: int, name: str) -> Instances:
    """Boxes of 100 x 100 along the diagonal."""
    corners = torch.linspace(0, SIZE - 100, number)[:, None].expand(number, 2)
    boxes = Instances((SIZE, SIZE))
    boxes.set(name, Boxes(torch.cat([corners, corners + 100], dim=1)))
    boxes.objectness_logits = torch.ones(number)
    return boxes


@torch.no_grad()
def seconds(paths: list[Path], rounds: int) -> dict[Path, float]:
    """Median seconds per image of small versions, by their config."""
    torch.manual_seed(0)
    models = {path: with_views(path, model_of(path)) for path in paths}
    pixels = torch.randint(0, 256, (3, 144, 144), dtype=torch.uint8)
    image = {"image": pixels, "height": 144, "width": 144}
    times: dict[Path, list[float]] = {path: [] for path in paths}
    for _ in range(rounds + 1):
        for path, model in models.items():
            start = time.perf_counter()
            model([image])
            times[path].append(time.perf_counter() - start)
    return {path: statistics.median(values[1:]) for path, values in times.items()}


def main() -> None:
    """Print one line per step."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, nargs="+", help="all by default")
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    paths = sorted(Path("configs/challenge").glob("step*.py"))
    if options.steps:
        paths = [paths[step] for step in options.steps]
    small = {path: Path("configs/challenge_small") / path.name for path in paths}
    measured = seconds(list(small.values()), options.rounds)
    print("| step | parameters | GFLOPs: backbone to RPN | GFLOPs: ROI heads | s, small |")
    print("|---|---|---|---|---|")
    for path in paths:
        with torch.device("meta"):
            parameters = sum(p.numel() for p in model_of(path).parameters()) / 1e6
        dense, sparse = gflops(path)
        print(
            f"| {path.stem} | {parameters:.1f} M | {dense:,.0f} | {sparse:,.0f} "
            f"| {measured[small[path]]:.3f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
