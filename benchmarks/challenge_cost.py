"""Cost of each step of the winning LVIS 2020 entry: parameters, GFLOPs and seconds per image.

    python benchmarks/challenge_cost.py
    python benchmarks/challenge_cost.py --steps 0 9

Parameters and GFLOPs are counted for configs/challenge with 1,203 classes. A FLOP is half a
multiply-add. An image of 1280 x 1280 goes through backbone, neck and RPN head, 1,000 proposals go
through the box stages and 300 detections through the mask head. Convolutions, including deformable
ones, and matrix products count; reassembly (CARAFE), pooling and activations do not. Backbone and
RPN are counted on torch's meta device, without computing anything. With test-time augmentation each
view goes through the backbone twice, for boxes and then for masks, and once through each head.
Views are assumed to be square.

Seconds are measured on small versions (d2_seesaw.engine.shrink) on one CPU thread: the median time
of inference on an image of 144 x 144 with random weights. The steps take turns within each round.
"""

import argparse
import statistics
import time
from pathlib import Path
from typing import Any, cast

import torch
from detectron2.config import instantiate
from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.proposal_generator import RPN
from detectron2.modeling.roi_heads import FastRCNNOutputLayers, StandardROIHeads
from detectron2.structures import Boxes, ImageList, Instances
from omegaconf import DictConfig
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, register_flop_formula

from d2_seesaw.engine import load_config
from d2_seesaw.engine.shrink import shrink

SIZE = 1280

build: Any = instantiate


@register_flop_formula(torch.ops.torchvision.deform_conv2d)
def deform_conv_flop(x_shape, w_shape, *_args, out_shape, **_kwargs) -> int:
    """Count the FLOPs of a deformable convolution, without the one that predicts its offsets."""
    batch, _, height, width = out_shape
    out_channels, in_channels, *kernel = w_shape
    return 2 * batch * height * width * out_channels * in_channels * kernel[0] * kernel[1]


def model_of(cfg: DictConfig) -> GeneralizedRCNN:
    """Build the model of a config, with random weights."""
    if "pretrained" in cfg.model.backbone.bottom_up:
        cfg.model.backbone.bottom_up.pretrained = False
    return build(cfg.model).eval()


def with_views(step: str, cfg: DictConfig) -> nn.Module:
    """Build the model of a step, wrapped in test-time augmentation if the step has it."""
    model = model_of(cfg)
    if not view_sizes(step, cfg):
        return model
    cfg.tta.model = model
    return build(cfg.tta)


@torch.no_grad()
def gflops(step: str, cfg: DictConfig) -> tuple[float, float]:
    """Count GFLOPs of backbone, neck and RPN head together, and of the ROI heads."""
    with torch.device("meta"):
        model = model_of(cfg)
        images = torch.zeros(1, 3, SIZE, SIZE)
        with FlopCounterMode(display=False) as dense:
            features = model.backbone(images)
            rpn = cast(RPN, model.proposal_generator)
            rpn.rpn_head([features[name] for name in rpn.in_features])
    heads = cast(StandardROIHeads, model.roi_heads).to_empty(device="cpu")
    for parameter in heads.parameters():
        nn.init.normal_(parameter, std=1e-3)
    for buffer in heads.buffers():
        buffer.fill_(1)
    features = {name: torch.randn(map_.shape) for name, map_ in features.items()}
    with FlopCounterMode(display=False) as sparse:
        run_heads(heads, features)
    views = view_sizes(step, cfg)
    areas = 2 * sum(size**2 for size in views) / SIZE**2 if views else 1
    return (
        areas * dense.get_total_flops() / 1e9,
        max(len(views), 1) * sparse.get_total_flops() / 1e9,
    )


def view_sizes(step: str, cfg: DictConfig) -> list[int]:
    """Return the long edges of the views of a step; empty without test-time augmentation."""
    return [long for _, long in cfg.tta.scales for _ in range(2)] if "tta" in step else []


def run_heads(heads: StandardROIHeads, features: dict[str, torch.Tensor]) -> None:
    """Run 1,000 proposals through the box stages and 300 detections through the mask head."""
    for predictor in heads.modules():
        if isinstance(predictor, FastRCNNOutputLayers):
            predictor.test_score_thresh = 2.0  # suppresses the model's own detections
    images = ImageList(torch.zeros(1, 3, SIZE, SIZE), [(SIZE, SIZE)])
    heads(images, features, [instances(1000, "proposal_boxes")])
    given = instances(300, "pred_boxes")
    given.pred_classes = torch.arange(300)
    given.scores = torch.ones(300)
    heads.forward_with_given_boxes(features, [given])


def instances(number: int, name: str) -> Instances:
    """Return boxes of 100 x 100 along the diagonal."""
    corners = torch.linspace(0, SIZE - 100, number)[:, None].expand(number, 2)
    boxes = Instances((SIZE, SIZE))
    boxes.set(name, Boxes(torch.cat([corners, corners + 100], dim=1)))
    boxes.objectness_logits = torch.ones(number)
    return boxes


@torch.no_grad()
def seconds(steps: dict[str, DictConfig], rounds: int) -> dict[str, float]:
    """Measure the median seconds per image of the small version of each step."""
    torch.manual_seed(0)
    models = {step: with_views(step, cfg) for step, cfg in steps.items()}
    pixels = torch.randint(0, 256, (3, 144, 144), dtype=torch.uint8)
    image = {"image": pixels, "height": 144, "width": 144}
    times: dict[str, list[float]] = {step: [] for step in steps}
    for _ in range(rounds + 1):
        for step, model in models.items():
            start = time.perf_counter()
            model([image])
            times[step].append(time.perf_counter() - start)
    return {step: statistics.median(values[1:]) for step, values in times.items()}


def main() -> None:
    """Print one line per step."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, nargs="+", help="steps to measure (default: all)")
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    paths = sorted(Path("configs/challenge").glob("step*.py"))
    if options.steps:
        paths = [paths[step] for step in options.steps]
    quickstart = load_config("configs/quickstart/seesaw.py")
    small = {path.stem: shrink(load_config(str(path)), quickstart) for path in paths}
    measured = seconds(small, options.rounds)
    print("| step | parameters | GFLOPs: backbone to RPN | GFLOPs: ROI heads | s, small |")
    print("|---|---|---|---|---|")
    for path in paths:
        step, cfg = path.stem, load_config(str(path))
        with torch.device("meta"):
            parameters = sum(p.numel() for p in model_of(cfg).parameters()) / 1e6
        dense, sparse = gflops(step, cfg)
        print(
            f"| {step} | {parameters:.1f} M | {dense:,.0f} | {sparse:,.0f} "
            f"| {measured[step]:.3f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
