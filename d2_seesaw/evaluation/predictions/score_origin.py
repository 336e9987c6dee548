"""Origin of the scores of saved detections: checkpoint, test-time augmentation and calibration.

Score thresholds apply to the scores of one checkpoint, predicted in one way. ``images.json`` of
``d2-seesaw predict`` and ``instances_origin.json`` of ``--eval-only`` record how they were
predicted, so that thresholds are not chosen on other scores.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import msgspec

from d2_seesaw.evaluation.predictions.files import MASK_RESULTS, RESULTS
from d2_seesaw.utils.files import file_hash, write_text

ORIGIN = "instances_origin.json"
"""File of an evaluation, beside its detections."""

TTA_SUFFIX = "_tta"
"""End of the folder of an evaluation with test-time augmentation."""

_FOLDER = "inference"  # of the evaluations of all configs
_DIGITS = 12  # of a hash in a message


@dataclass(frozen=True)
class ScoreOrigin:
    """Origin of the scores of detections. What is not known is None.

    Attributes:
        checkpoint: Path of the checkpoint; in files its name alone.
        sha256: Hash of the checkpoint, as in files of score thresholds.
        tta: Whether test-time augmentation was used.
        without_calibration: Whether a calibration of the checkpoint was left out.
        changed: Whether the scores were calibrated after they had been predicted.
    """

    checkpoint: str | None = None
    sha256: str | None = None
    tta: bool | None = None
    without_calibration: bool | None = None
    changed: bool = False

    def recorded(self) -> ScoreOrigin:
        """Return what is written to files: with the hash, which is computed if it is not known.

        Raises:
            OSError: the checkpoint cannot be read.
        """
        if self.checkpoint is None:
            return self
        sha256 = self.sha256
        if sha256 is None and os.path.isfile(self.checkpoint):  # not a URL
            sha256 = file_hash(self.checkpoint)
        return replace(self, checkpoint=Path(self.checkpoint).name, sha256=sha256)

    def write(self, folder: str | PathLike[str]) -> None:
        """Write ``instances_origin.json`` beside the detections of an evaluation."""
        text = json.dumps(asdict(self), indent=1)
        write_text(os.path.join(folder, ORIGIN), f"{text}\n")


@dataclass(frozen=True)
class KnownOrigin:
    """Origin of a file of results, and what says so.

    Attributes:
        results: The file of results.
        origin: Their origin.
        source: File or folder that says so.
    """

    results: Path
    origin: ScoreOrigin
    source: str

    @classmethod
    def of_evaluation(cls, results: Path) -> KnownOrigin | None:
        """Return the origin of results of an evaluation; None if it is not known.

        Without a record, as of evaluations during a training and of earlier versions, the folder
        says whether test-time augmentation was used.

        Raises:
            ValueError: the record is damaged.
        """
        if results.name not in (*RESULTS, MASK_RESULTS):
            return None
        record = results.with_name(ORIGIN)
        if record.is_file():
            content = record.read_text(encoding="utf-8")
            return cls(results, _decoded(content, record), str(record))
        folder = results.resolve().parent.name
        if folder not in (_FOLDER, _FOLDER + TTA_SUFFIX):
            return None
        return cls(results, ScoreOrigin(tta=folder != _FOLDER), f"the name of its folder {folder}")

    def check(self, checkpoint: str | PathLike[str], *, tta: bool) -> str | None:
        """Refuse the results as a source of the score thresholds of a checkpoint.

        Args:
            checkpoint: The checkpoint.
            tta: Whether the thresholds are to apply to test-time augmentation.

        Returns:
            The hash of the checkpoint; None if it was not needed.

        Raises:
            ValueError: other scores were predicted.
        """
        origin, ways = self.origin, ("without", "with")
        if origin.tta is not None and origin.tta != tta:
            raise self._error(
                f"predicted {ways[origin.tta]} test-time augmentation",
                f"score thresholds of {checkpoint} {ways[tta]} it were asked for: "
                f"{'leave out' if tta else 'give'} --tta",
            )
        if origin.without_calibration or origin.changed:
            how = "calibrated afterwards" if origin.changed else "predicted without calibration"
            also = f"those that {checkpoint} predicts with its own calibration"
            raise self._error(how, f"score thresholds apply to {also}")
        if origin.sha256 is None:
            return None
        found = file_hash(checkpoint)
        if found != origin.sha256:
            raise self._error(
                f"predicted by {origin.checkpoint} with the SHA-256 {origin.sha256[:_DIGITS]}...",
                f"that of {checkpoint} is {found[:_DIGITS]}...: give the checkpoint that predicted",
            )
        return found

    def _error(self, how: str, wanted: str) -> ValueError:
        return ValueError(f"the scores of {self.results} were {how}, says {self.source}; {wanted}")


def _decoded(text: str, path: Path) -> ScoreOrigin:
    try:
        content: Any = json.loads(text)
        return msgspec.convert(content, ScoreOrigin)
    except (ValueError, msgspec.MsgspecError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
