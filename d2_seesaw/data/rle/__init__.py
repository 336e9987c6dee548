"""Masks in COCO's compressed run-length encoding (RLE).

An encoding is a dict with "size", ``[height, width]``, and "counts". Its runs are counted column by
column and start with the background.
"""

from d2_seesaw.data.rle.columns import MaskColumns
from d2_seesaw.data.rle.conversion import (
    compressed_rle,
    encode_bitmap,
    encode_segmentation,
    run_lengths,
)
from d2_seesaw.data.rle.pasting import encode_instances, encode_masks

__all__ = [
    "MaskColumns",
    "compressed_rle",
    "encode_bitmap",
    "encode_instances",
    "encode_masks",
    "encode_segmentation",
    "run_lengths",
]
