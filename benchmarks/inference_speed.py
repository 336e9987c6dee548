"""Inference speed of HTC-Lite, and of test-time augmentation, against their parts and peers.

    python benchmarks/inference_speed.py --device cuda
    python benchmarks/inference_speed.py --size 128 160 --proposals 200 --rounds 3

Models with ResNet-50 and 1203 classes take turns on a random image of 800 x 1067, one per call:
Detectron2's Cascade Mask R-CNN with one mask head, of Detectron2's classes only; HTC-Lite; and
Hybrid Task Cascade without its semantic branch. Weights are random. The classifiers are scaled so
that scores differ, with a threshold that leaves 200 detections in each, and in each view.

Then HTC-Lite runs on the views of configs/common/tta.py, ``challenge``: 5 long edges, each with its
mirror image. Their time is compared with the sum of the times of the single views, each with
test-time augmentation of this view alone, and their peak memory with that of the largest view. The
ratio to plain inference on the views is printed as well: it runs the backbone once for each view
instead of twice. With another --size, the views are scaled by its long edge.

Memory is measured on a GPU only: the peak during one call, beyond all models.
"""

import argparse
import functools
from typing import Any

import torch
from detectron2.config import LazyConfig
from detectron2.modeling import GeneralizedRCNN
from random_detectors import ROOT, build, give_detections, model_config, stock_cascade, tame
from timing import (
    Row,
    Step,
    add_device_options,
    device_name,
    measure,
    quartiles,
    write_json,
)

from d2_seesaw.inference import MultiViewInference
from d2_seesaw.inference.tta.views import views_of

STOCK, LITE, HTC = "Cascade, Detectron2", "HTC-Lite", "HTC"
LIMITS = {STOCK: "<= 1.25", HTC: "< 1"}
FULL_SIZE = (800, 1067)


def model_of(name: str, options: argparse.Namespace) -> tuple[GeneralizedRCNN, dict[str, Any]]:
    """Build a model and an image of its size."""
    torch.manual_seed(0)
    height, width = options.size
    pixels = torch.randint(256, (3, height, width), dtype=torch.uint8)
    image = {"image": pixels, "height": height, "width": width}
    file = {LITE: "htc_lite_r50_fpn", HTC: "htc_r50_fpn"}
    model = stock_cascade() if name == STOCK else build(model_config(file[name]))
    model.to(options.device).eval()
    tame(model)
    model.proposal_generator.post_nms_topk[False] = options.proposals
    give_detections(model, image, options.detections)
    return model, image


def peak_of(step: Step, device: str) -> float | None:
    """Return the growth of memory during a call in MB; None on a CPU."""
    if torch.device(device).type != "cuda":
        return None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 1e6


@torch.no_grad()
def inference(model: Any, image: dict[str, Any]) -> int:
    """Run a model without pasting masks; return the number of detections."""
    (found,) = model.inference([image], do_postprocess=False)
    return len(found)


def long_edges(size: tuple[int, int]) -> list[int]:
    """Return the long edges of the challenge's views, for an image of another size scaled."""
    views: Any = LazyConfig.load(str(ROOT / "configs/common/tta.py"), "challenge")
    return [round(long * max(size) / max(FULL_SIZE)) for _, long in views.scales]


def resized(image: dict[str, Any], edge: int) -> dict[str, Any]:
    """Return an image whose long edge is ``edge``, resized as test-time augmentation does."""
    pixels = image["image"].permute(1, 2, 0).numpy()
    (view,) = views_of(pixels.shape[:2], pixels.shape[:2], [(edge, edge)], flip=False)
    return image | {"image": view.image(pixels)}


def rows_of_models(options: argparse.Namespace) -> list[Row]:
    """Measure the models."""
    models = {name: model_of(name, options) for name in (STOCK, LITE, HTC)}
    steps: dict[str, Step] = {
        name: functools.partial(inference, *given) for name, given in models.items()
    }
    times = measure(steps, options.rounds, options.device, budget=0.0, warm_up=1)
    rows: list[Row] = [
        {
            "what": name,
            "unit": "ms",
            **quartiles(times[name]),
            "peak memory MB": peak_of(step, options.device),
            "detections": step(),
        }
        for name, step in steps.items()
    ]
    for name, limit in LIMITS.items():
        values = [a / b for a, b in zip(times[LITE], times[name], strict=True)]
        rows.append({"what": f"{LITE} / {name}", "unit": "ratio", **quartiles(values)})
        rows[-1]["limit"] = limit
    return rows


def rows_of_views(options: argparse.Namespace) -> list[Row]:
    """Measure test-time augmentation against its single views."""
    edges = long_edges(options.size)
    model, image = model_of(LITE, options)
    for predictor in model.roi_heads.box_predictor:
        predictor.test_score_thresh /= 8  # all views find as many objects, and so does their union
    plain = [resized(image, edge) for edge in edges]
    single = [MultiViewInference(model, scales=[edge], flip=False) for edge in edges]
    together = MultiViewInference(model, scales=edges)

    # A mirror image takes as long as its view, so each view runs twice.
    def sum_of_views() -> None:
        for view in single * 2:
            inference(view, image)

    def sum_of_plain() -> None:
        for view in plain * 2:
            inference(model, view)

    names = ("10 views", "sum of single views", "plain inference on the views")
    all_views = functools.partial(inference, together, image)
    steps: dict[str, Step] = dict(zip(names, (all_views, sum_of_views, sum_of_plain), strict=True))
    times = measure(steps, options.rounds, options.device, budget=0.0, warm_up=1)
    rows: list[Row] = [{"what": n, "unit": "ms", **quartiles(times[n])} for n in names]
    rows[1]["detections"] = min(inference(view, image) for view in single)
    rows[2]["detections"] = min(inference(model, view) for view in plain)
    rows[0] |= {"detections": all_views(), "peak memory MB": peak_of(all_views, options.device)}
    for name, limit in zip(names[1:], ("<= 1.0", None), strict=True):
        values = [a / b for a, b in zip(times[names[0]], times[name], strict=True)]
        rows.append({"what": f"{names[0]} / {name}", "unit": "ratio", **quartiles(values)})
        rows[-1] |= {"limit": limit} if limit else {}
    largest = peak_of(functools.partial(inference, single[-1], image), options.device)
    if largest is not None:
        ratio = rows[0]["peak memory MB"] / largest
        rows.append({"what": f"{names[0]} / largest view, peak memory", "unit": "ratio"})
        rows[-1] |= {"median": ratio, "limit": "flat"}
    return rows


def report(rows: list[Row]) -> None:
    """Print one line per row."""
    for row in rows:
        text = f"{row['what']:40} {row['median']:9.3f} {row['unit']:5}"
        if "low" in row:
            text += f" ({row['low']:.3f} to {row['high']:.3f})"
        for key, unit in (("peak memory MB", "MB at most"), ("detections", "detections")):
            text += f", {row[key]:.0f} {unit}" if row.get(key) is not None else ""
        print(text + (f", limit {row['limit']}" if "limit" in row else ""), flush=True)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--size", type=int, nargs=2, default=FULL_SIZE, help="height and width of the image")
    add("--proposals", type=int, default=1000, help="of the RPN")
    add("--detections", type=int, default=200, help="per image")
    add("--rounds", type=int, default=7, help="at least 2")
    add("--what", nargs="+", choices=("models", "views"), default=("models", "views"))
    add("--rehearse", action="store_true", help="a small image and few proposals")
    add_device_options(parser)
    return parser.parse_args()


def main() -> None:
    """Measure models, then views."""
    options = parse_arguments()
    if options.rehearse:
        options.size, options.proposals, options.detections, options.rounds = (32, 48), 20, 5, 2
    if options.device == "cpu":
        torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {device_name(options.device)}, {options.rounds} rounds")
    rows: list[Row] = []
    for what, measured in (("models", rows_of_models), ("views", rows_of_views)):
        if what in options.what:
            new = measured(options)
            report(new)
            rows += new
            write_json(options.json, "inference_speed", options.device, rows)


if __name__ == "__main__":
    main()
