"""Output folder of predictions: which files are written to it, and which are the user's own."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from d2_seesaw.evaluation.predictions.results_file import PREDICTED_IMAGES, PREDICTED_RESULTS
from d2_seesaw.inference.sources import Source
from d2_seesaw.utils.marks import check_replaceable, record_files, recorded_files

LABELS = "labels"

_FRAME = re.compile(r"\d{6,}\.png")


def check_output(
    output: str | Path, sources: Sequence[Source], *, draw: bool, label_maps: bool
) -> None:
    """Refuse to replace files that no earlier prediction has written.

    Args:
        output: Folder of the results.
        sources: Files to predict on.
        draw: Whether pictures, videos and label maps are written.
        label_maps: Whether the model predicts label maps.

    Raises:
        FileExistsError: a file of the user's would be replaced.
    """
    known = recorded_files(output)
    for name in _written(sources, draw=draw, label_maps=label_maps):
        path = Path(output, name)
        replaced = [path]
        if name.endswith("/"):
            replaced = [p for p in sorted(path.glob("*.png")) if _FRAME.fullmatch(p.name)]
        check_replaceable(() if name in known else replaced)


def record_output(
    output: str | Path, sources: Sequence[Source], *, draw: bool, label_maps: bool
) -> None:
    """Record what is going to be written, so that a later prediction may replace it.

    Raises:
        WriteError: the record cannot be written.
    """
    record_files(output, _written(sources, draw=draw, label_maps=label_maps))


def _written(sources: Sequence[Source], *, draw: bool, label_maps: bool) -> Iterator[str]:
    """Yield the paths of results, drawings and label maps, for a video their folder with ``/``."""
    yield from (PREDICTED_RESULTS, PREDICTED_IMAGES)
    for source in sources if draw else ():
        name = Path(source.name)
        yield (name.with_suffix(".mp4") if source.is_video else name).as_posix()
        if label_maps:
            maps = (LABELS / name.with_suffix("" if source.is_video else ".png")).as_posix()
            yield f"{maps}/" if source.is_video else maps
