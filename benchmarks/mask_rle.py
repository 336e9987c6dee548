"""Time of encoding the masks of one image as RLE: this project's, and Detectron2's.

    python benchmarks/mask_rle.py
    python benchmarks/mask_rle.py --detections 100 --rounds 31
    python benchmarks/mask_rle.py --device cuda

Masks are smooth blobs of 28 x 28, boxes are uniformly distributed. Both take turns within each
round, so that other load on the machine affects both. On the CPU they must give the same bytes. The
output is processor time of one thread, the median over the rounds with its quartiles, and for
Detectron2 the share of pasting.

On a GPU, masks and boxes are in its memory. Detectron2 pastes there and copies the pasted images to
the host, this project copies the masks; both encode on the host. The output is wall time. Rounding
differs between GPU and CPU, so a few masks may differ in single pixels; their number is printed.
"""

import argparse
import time

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.layers.mask_ops import paste_masks_in_image
from pycocotools import mask as coco_mask
from timing import Row, add_device_options, quartiles, write_json
from torch import Tensor

from d2_seesaw.evaluation import encode_masks

SIZES = [(480, 640), (800, 1333)]
EDGES = {"small boxes": (8, 64), "large boxes": (100, 400)}
PASTE, THEIRS, OURS, RATIO = "of it paste", "Detectron2", "ours", "Detectron2 / ours"
ON_DEVICE = "ours, encode_on_device"


def draw(n: int, size: tuple[int, int], edges: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Draw masks ``(n, 1, 28, 28)`` and boxes ``(n, 4)`` inside an image of ``size``."""
    noise = F.interpolate(torch.randn(n, 1, 4, 4) + 1, (28, 28), mode="bicubic")
    extent = torch.rand(n, 2) * (edges[1] - edges[0]) + edges[0]
    corner = torch.rand(n, 2) * (torch.tensor([size[1], size[0]]) - extent)
    return noise.mul(3).sigmoid(), torch.cat([corner, corner + extent], 1)


def now(device: torch.device) -> float:
    """Read the clock: processor time on the CPU, wall time when a GPU has finished."""
    if device.type != "cuda":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def one_round(
    masks: Tensor, boxes: Tensor, size: tuple[int, int]
) -> tuple[float, float, float, float, int]:
    """Return seconds and the number of masks that differ.

    The seconds are those of pasting, of pasting and encoding, of this project, and of this project
    on the device of the masks.
    """
    device = masks.device
    start = now(device)
    pasted = paste_masks_in_image(masks[:, 0], boxes, size)
    after_paste = now(device)
    theirs = [coco_mask.encode(np.array(m, order="F", dtype="uint8")) for m in pasted.cpu()]
    after_theirs = now(device)
    ours = encode_masks(masks, boxes, size)
    after_ours = now(device)
    if encode_masks(masks, boxes, size, on_device=True) != ours:
        raise RuntimeError("masks that are encoded on the device differ")
    after_device = now(device)
    differing = sum(a != b for a, b in zip(ours, theirs, strict=True))
    if differing and device.type == "cpu":
        raise RuntimeError(f"{differing} masks differ")
    seconds = after_paste - start, after_theirs - start, after_ours - after_theirs
    return *seconds, after_device - after_ours, differing


def rows_of(size: tuple[int, int], edges: str, options: argparse.Namespace) -> list[Row]:
    """Measure both times and their ratio."""
    masks, boxes = (t.to(options.device) for t in draw(options.detections, size, EDGES[edges]))
    one_round(masks, boxes, size)
    rounds = [one_round(masks, boxes, size) for _ in range(options.rounds)]
    *times, differing = zip(*rounds, strict=True)
    paste, theirs, ours, on_device = 1e3 * np.array(times)
    case = f"{size[0]} x {size[1]}, {edges}"
    columns = {THEIRS: theirs, PASTE: paste, OURS: ours, ON_DEVICE: on_device, RATIO: theirs / ours}
    return [
        {
            "case": case,
            "what": what,
            "unit": "ratio" if what == RATIO else "ms",
            "masks that differ": max(differing),
            **quartiles(values.tolist()),
        }
        for what, values in columns.items()
    ]


def text(row: Row) -> str:
    """Format median and quartiles."""
    return f"{row['median']:6.1f} ({row['low']:.1f} to {row['high']:.1f})"


def main() -> None:
    """Print one line per case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--detections", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=15, help="at least 2")
    add_device_options(parser)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows: list[Row] = []
    for size in SIZES:
        for edges in EDGES:
            case_rows = rows_of(size, edges, options)
            rows += case_rows
            theirs, paste, ours, on_device, ratio = map(text, case_rows)
            print(
                f"{case_rows[0]['case']}:  Detectron2 {theirs} ms, of it paste {paste}  "
                f"ours {ours} ms, on the device {on_device} ms  ratio {ratio}  "
                f"{case_rows[0]['masks that differ']} differ"
            )
    write_json(options.json, "mask_rle", options.device, rows)


if __name__ == "__main__":
    main()
