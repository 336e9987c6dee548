"""SYNTHIA (Ros et al., CVPR 2016) in its published folders, for semantic segmentation.

The labels are PNGs with three channels of 16 bits and the class id in the red one. There is no
published split; ours is :class:`~d2_seesaw.data.FrameSplit`. The authors of Recall Loss (Tian et
al., https://arxiv.org/abs/2106.14917) drew 70 % of the frames of each camera for training, 10 % for
validation and 20 % for testing at random, so that most validation frames have a neighbor in
training. Our split has the same percentages in contiguous blocks. They trained 16 classes,
including void and two reserved ids; here these three are ignored, which leaves 13. Their numbers
and ours are therefore not comparable. ``synthia_seqs_05_summer_authors_*`` have their 16 classes
and a random split. Theirs depends on the order in which a file system lists the files.
"""

from collections.abc import Sequence
from pathlib import Path

from d2_seesaw.data.catalog import datasets_root
from d2_seesaw.data.semantic.folders import FrameSplit, register_semantic_folder

PARTS = ("train", "val", "test")
CAMERAS = tuple(
    f"Stereo_{side}/Omni_{view}" for view in ("B", "F", "L", "R") for side in ("Left", "Right")
)

# Class names by the id in the files. 0 is void; 13 and 14 are reserved.
SEQS_IDS = {
    1: "sky",
    2: "building",
    3: "road",
    4: "sidewalk",
    5: "fence",
    6: "vegetation",
    7: "pole",
    8: "car",
    9: "traffic sign",
    10: "pedestrian",
    11: "bicycle",
    12: "lane marking",
    15: "traffic light",
}

# The classes of Recall Loss's authors are all ids from 0 to 15.
SEQS_IDS_OF_AUTHORS = {
    i: {0: "void", 13: "reserved 13", 14: "reserved 14", **SEQS_IDS}[i] for i in range(16)
}

# The 16 classes it shares with Cityscapes, in the order of Cityscapes. Ignored ids: void 0, parking
# slot 13, road work 14, terrain 16, truck 18, train 20, lane marking 22.
RAND_CITYSCAPES_IDS = {
    3: "road",
    4: "sidewalk",
    2: "building",
    21: "wall",
    5: "fence",
    7: "pole",
    15: "traffic light",
    9: "traffic sign",
    6: "vegetation",
    1: "sky",
    10: "person",
    17: "rider",
    8: "car",
    19: "bus",
    12: "motorcycle",
    11: "bicycle",
}


def register_synthia_seqs(
    name: str,
    sequence_root: str | Path,
    *,
    split: FrameSplit | None = None,
    cameras: Sequence[str] = CAMERAS,
    all_ids: bool = False,
) -> None:
    """Register a video sequence, such as ``SYNTHIA-SEQS-05-SUMMER``.

    Args:
        name: name of the dataset in Detectron2's catalogs.
        sequence_root: folder with ``RGB`` and ``GT/LABELS``.
        split: part of the frames to use; all by default.
        cameras: folders under ``RGB``; all eight by default, as in the Recall Loss paper.
        all_ids: make void and the two reserved ids classes, too: 16 classes, as in the code of the
            Recall Loss paper. By default they are ignored.

    Raises:
        ValueError: see :func:`~d2_seesaw.data.register_semantic_folder`.
    """
    ids = SEQS_IDS_OF_AUTHORS if all_ids else SEQS_IDS
    _register(name, sequence_root, ids, cameras, split)


def register_synthia_rand_cityscapes(
    name: str, root: str | Path, *, split: FrameSplit | None = None
) -> None:
    """Register ``RAND_CITYSCAPES``, single frames with 16 classes of Cityscapes.

    Args:
        name: name of the dataset in Detectron2's catalogs.
        root: folder with ``RGB`` and ``GT/LABELS``.
        split: part of the frames to use; all by default.

    Raises:
        ValueError: see :func:`~d2_seesaw.data.register_semantic_folder`.
    """
    _register(name, root, RAND_CITYSCAPES_IDS, (), split)


def _register(
    name: str,
    root: str | Path,
    ids: dict[int, str],
    subfolders: Sequence[str],
    split: FrameSplit | None,
) -> None:
    register_semantic_folder(
        name,
        Path(root) / "RGB",
        Path(root) / "GT" / "LABELS",
        classes=list(ids.values()),
        label_ids={label_id: label for label, label_id in enumerate(ids)},
        subfolders=subfolders,
        split=split,
    )


def register_synthia() -> None:
    """Register the parts of ``synthia_seqs_05_summer`` and ``synthia_rand_cityscapes``."""
    root = datasets_root()
    for part in PARTS:
        split = FrameSplit(part)
        sequence = root / "SYNTHIA-SEQS-05-SUMMER"
        register_synthia_seqs(f"synthia_seqs_05_summer_{part}", sequence, split=split)
        register_synthia_seqs(
            f"synthia_seqs_05_summer_authors_{part}",
            sequence,
            split=FrameSplit(part, stretches=1, shuffle_seed=0),
            all_ids=True,
        )
        register_synthia_rand_cityscapes(
            f"synthia_rand_cityscapes_{part}", root / "RAND_CITYSCAPES", split=split
        )


register_synthia()
