"""Time of the masks of one image's detections as RLE: ours, and Detectron2's paste and encode.

    python benchmarks/mask_rle.py
    python benchmarks/mask_rle.py --detections 100 --rounds 31

Masks are smooth blobs of 28 x 28, boxes are drawn evenly. Both take turns within each round, so
that another load on the machine hits both, and must give the same bytes. What is printed is
processor time of one thread, the median over the rounds with its quartiles, and for Detectron2
which part of it is pasting.
"""

import argparse
import time

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.layers.mask_ops import paste_masks_in_image
from pycocotools import mask as coco_mask
from torch import Tensor

from d2_seesaw.evaluation import encode_masks

SIZES = [(480, 640), (800, 1333)]
EDGES = {"small boxes": (8, 64), "large boxes": (100, 400)}


def draw(n: int, size: tuple[int, int], edges: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Masks ``(n, 1, 28, 28)`` and boxes ``(n, 4)`` inside an image of ``size``."""
    noise = F.interpolate(torch.randn(n, 1, 4, 4) + 1, (28, 28), mode="bicubic")
    extent = torch.rand(n, 2) * (edges[1] - edges[0]) + edges[0]
    corner = torch.rand(n, 2) * (torch.tensor([size[1], size[0]]) - extent)
    return noise.mul(3).sigmoid(), torch.cat([corner, corner + extent], 1)


def one_round(masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> tuple[float, float, float]:
    """Seconds of pasting, of pasting and encoding, and of ours."""
    start = time.process_time()
    pasted = paste_masks_in_image(masks[:, 0], boxes, size)
    after_paste = time.process_time()
    theirs = [
        coco_mask.encode(np.array(m[:, :, None], order="F", dtype="uint8"))[0] for m in pasted
    ]
    after_theirs = time.process_time()
    ours = encode_masks(masks, boxes, size)
    after_ours = time.process_time()
    if ours != theirs:
        raise RuntimeError("the two differ")
    return after_paste - start, after_theirs - start, after_ours - after_theirs


def text(values: np.ndarray) -> str:
    """Median and quartiles."""
    low, median, high = np.percentile(values, [25, 50, 75])
    return f"{median:6.1f} ({low:.1f} to {high:.1f})"


def main() -> None:
    """Print one line per case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--detections", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for size in SIZES:
        for name, edges in EDGES.items():
            masks, boxes = draw(options.detections, size, edges)
            one_round(masks, boxes, size)
            times = np.array([one_round(masks, boxes, size) for _ in range(options.rounds)])
            paste, theirs, ours = 1e3 * times.T
            print(
                f"{size[0]} x {size[1]:4}, {name}:  Detectron2 {text(theirs)} ms, of it paste "
                f"{text(paste)}  ours {text(ours)} ms  ratio {text(theirs / ours)}"
            )


if __name__ == "__main__":
    main()
