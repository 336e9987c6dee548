"""Detectron2's checkpointer with strict loading, and the one function that writes weights."""

import os
from collections.abc import Mapping, Set
from pickle import UnpicklingError
from typing import IO, Any, cast
from urllib.parse import urlparse

import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import Tensor, nn

from d2_seesaw.checkpoint.class_metadata import CALIBRATION, METADATA
from d2_seesaw.checkpoint.class_transfer import ClassTransfer, TransferReport
from d2_seesaw.checkpoint.contents import (
    check_checksums,
    check_contents,
    check_metadata,
    check_states,
)
from d2_seesaw.checkpoint.input_scale import check_input
from d2_seesaw.checkpoint.pickles import read_model_zoo_file
from d2_seesaw.checkpoint.pretrained import convert_pretrained
from d2_seesaw.checkpoint.safetensors_files import (
    is_safetensors,
    read_safetensors,
    write_safetensors,
)
from d2_seesaw.layers import Calibration
from d2_seesaw.utils.files import atomic_write, write_text

MAX_LISTED = 8  # weights of a message


def save_weights(
    path: str | os.PathLike[str],
    weights: Mapping[str, Tensor],
    metadata: Mapping[str, Any] | None = None,
    *,
    make_folder: bool = True,
    calibration: Calibration | None = None,
    **extras: Any,
) -> None:
    """Write a checkpoint, which appears at ``path`` when it is complete.

    Args:
        path: the ``.pth`` or ``.safetensors`` file.
        weights: the state dict of a model.
        metadata: as :func:`class_metadata` returns it; left out if empty.
        make_folder: create missing folders.
        calibration: stored with the weights, which it leaves unchanged.
        extras: further entries of the checkpoint, such as the state of the trainer. A
            ``.safetensors`` file has only text beside the weights.

    Raises:
        ValueError: a value that a ``.safetensors`` file cannot hold, with its key.
        WriteError: the file cannot be written, such as on a full disk. An earlier one is kept.
    """
    named: dict[str, Any] = {METADATA: dict(metadata)} if metadata else {}
    entry = None if calibration is None else calibration.entry()
    if entry is not None:
        named[CALIBRATION] = entry
    with atomic_write(path, make_folder=make_folder) as file:
        if is_safetensors(path):
            write_safetensors(file, weights, metadata, calibration=entry, **extras)
            return
        sink = _Sink(file)
        try:
            torch.save({"model": weights, **named, **extras}, cast("IO[bytes]", sink))
        except RuntimeError:
            if sink.error is None:
                raise
            raise sink.error from None


class _Sink:
    """File that keeps the first error of writing, which torch.save hides behind its own."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.error: BaseException | None = None

    def write(self, data: Any) -> int:
        try:
            return self._file.write(data)
        except BaseException as error:  # also an interruption
            self.error = self.error or error
            raise

    def flush(self) -> None:
        self._file.flush()


class StrictCheckpointer(DetectionCheckpointer):
    """Checkpointer that refuses checkpoints which do not fit the model.

    Detectron2 only warns about weights that do not fit, so that a model with random heads is
    trained, or scored near 0 AP. Weights of pretrained backbones are converted, see
    :data:`~d2_seesaw.checkpoint.pretrained.CONVERTERS`.

    A model that extends a trained one, such as :class:`~d2_seesaw.modeling.DualHeadRCNN`, lists its
    new weights in ``added_keys``. It must start from a checkpoint that has all other weights, and
    either all or none of these. A model that also has ``replaced_keys``, such as
    :class:`~d2_seesaw.modeling.DecoupledRCNN`, starts only from one that has none.

    Weights that the model lacks are ignored with a warning, such as another head or the state of
    another loss. They are refused where they would change the output of a part that the model has:
    its backbone, or a layer with parameters. Training that starts from such a checkpoint ignores
    them, unless the model extends a trained one.

    Args:
        model: may be wrapped in DDP.
        save_dir: folder for the checkpoints.
        require_all: also refuse a checkpoint that lacks weights of the model, or has more weights
            in its layers, as for evaluation. Without it, pretrained backbones are accepted.
        allow_partial: warn instead, as Detectron2 does. None for a command without this option,
            whose errors do not advise it.
        class_transfer: start of a training from other classes; not used by :meth:`resume` and with
            ``require_all``.
        metadata: saved with the weights, see :func:`~d2_seesaw.checkpoint.class_metadata`. Plain
            values only, so that loading runs no code. ``load`` returns the metadata of the file
            among its extras.
        checkpointables: further objects that are saved and resumed, such as the trainer.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        require_all: bool = False,
        allow_partial: bool | None = False,
        class_transfer: ClassTransfer | None = None,
        metadata: Mapping[str, Any] | None = None,
        **checkpointables: Any,
    ) -> None:
        super().__init__(model, save_dir, **checkpointables)
        self.metadata = dict(metadata or {})
        self._kept: tuple[str, dict[str, Any]] | None = None
        self._path = ""
        self._ignored: list[str] = []
        self.require_all = require_all
        self.allow_partial = allow_partial
        self.class_transfer = class_transfer
        self._report: TransferReport | None = None

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Load a checkpoint.

        Args:
            path: file or URL; if empty, nothing is loaded.
            checkpointables: names of the further objects to load; None loads all.

        Raises:
            ValueError: a damaged file; values that are not finite; weights that do not fit, all in
                one message; no ``path`` for a model that extends a trained one; a checkpoint of the
                second phase for a model that starts this phase.
        """
        if not path and _added_keys(self.model):
            raise ValueError(
                f"{type(self.model).__name__} extends a trained model: give its checkpoint, "
                "train.init_checkpoint=MODEL.pth"
            )
        self._path = path
        try:
            return super().load(path, checkpointables)
        except (AttributeError, LookupError, TypeError) as error:  # of load_state_dict
            reason = f"{type(error).__name__}: {reason_of(error)}"
            raise ValueError(
                f"checkpoint {path} does not fit this training, its state cannot be restored: "
                f"{reason}"
            ) from error
        finally:
            self._parsed_url_during_load = None

    def resume(self, path: str) -> dict[str, Any]:
        """Load weights and all further objects from a checkpoint of the same training.

        Raises:
            ValueError: as :meth:`load`, or a state that does not fit one of the objects.
        """
        self.require_all = True
        return self.load(path)

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """Resume from ``last_checkpoint`` if there is one, or load only weights from ``path``."""
        if resume and self.has_checkpoint():
            return self.resume(self.get_checkpoint_file())
        return self.load(path, checkpointables=[])

    def read(self, path: str) -> Mapping[str, Any]:
        """Read a local checkpoint without loading it; the next :meth:`load` does not read it again.

        Raises:
            ValueError: a damaged file, or values that are not finite. Its cause is the reason.
        """
        self._kept = None
        self._parsed_url_during_load = urlparse("")
        try:
            content = self._load_file(path)
        finally:
            self._parsed_url_during_load = None
        self._kept = (path, content)
        return content

    def save(self, name: str, *, tag: bool = True, **kwargs: Any) -> None:
        """Write ``name.pth`` as the base class does, but atomically and with the metadata.

        Args:
            name: file name without ``.pth``.
            tag: name the file in ``last_checkpoint``, after it is complete.
            kwargs: further entries of the checkpoint.

        Raises:
            WriteError: it cannot be written, or the folder does not exist.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        file = f"{name}.pth"
        path = os.path.join(self.save_dir, file)
        self.logger.info("Saving checkpoint to %s", path)
        states = {key: part.state_dict() for key, part in self.checkpointables.items()} | kwargs
        save_weights(path, self.model.state_dict(), self.metadata, make_folder=False, **states)
        if tag:
            self.tag_last_checkpoint(file)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Replace ``last_checkpoint`` atomically."""
        path = os.path.join(self.save_dir, "last_checkpoint")
        write_text(path, last_filename_basename, make_folder=False)

    def _load_file(self, filename: str) -> dict[str, Any]:
        kept, self._kept = self._kept, None
        if kept is not None and kept[0] == filename:
            return kept[1]
        try:
            check_checksums(filename)
            loaded = self._read(filename)
            weights = loaded["model"]
            # A published checkpoint may hold its weights one level deeper.
            if isinstance(weights, Mapping) and all(isinstance(name, str) for name in weights):
                own = self.model.state_dict()
                weights = convert_pretrained(dict(weights), own, partial=bool(self.allow_partial))
            check_contents(weights)
            check_states({key: value for key, value in loaded.items() if key != "model"})
            check_metadata(loaded.get(METADATA, {}))
            if CALIBRATION in loaded:
                Calibration.from_entry(loaded[CALIBRATION])
        except MemoryError:
            raise
        except Exception as error:  # what unpickling a damaged file raises may be of any kind
            reason = reason_of(error)
            raise ValueError(f"checkpoint {filename} cannot be read: {reason}") from error
        return {**loaded, "model": weights}

    def _read(self, filename: str) -> dict[str, Any]:
        """Read a file as the base class does, but nothing in it is run."""
        if filename.endswith(".pkl"):
            return read_model_zoo_file(filename)
        if filename.endswith(".pyth"):  # of pycls
            state = self._torch_load(filename)["model_state"]
            weights = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
            return {"model": weights, "__author__": "pycls", "matching_heuristics": True}
        return super()._load_file(filename)

    def _torch_load(self, f: str) -> Any:
        if is_safetensors(f):
            return read_safetensors(f)
        return torch.load(f, map_location="cpu", weights_only=True)

    def _load_model(self, checkpoint: Any) -> Any:
        self._report = None
        if self.class_transfer is not None and not self.require_all:
            checkpoint["model"], self._report = self.class_transfer.apply(self.model, checkpoint)
        weights = checkpoint["model"]
        if not self.require_all:
            self._check_start(weights)
        # Leftovers of names that are matched by similarity mean nothing.
        exact = not checkpoint.get("matching_heuristics", False)
        incompatible = super()._load_model(checkpoint)
        self._ignored = []
        if exact and (self.require_all or _added_keys(self.model)):
            parts = dict(self.model.named_modules(remove_duplicate=False))
            self._ignored = [
                key
                for key in incompatible.unexpected_keys
                if weights[key].is_floating_point() and _would_change_output(key, parts)
            ]
        check_input(self.model, self._path, refuse=not (self.require_all or self.allow_partial))
        if self._report is not None:
            self._report.complete(self.model.state_dict(), incompatible)
        return incompatible

    def _check_start(self, weights: Mapping[str, Any]) -> None:
        """Refuse to start a second phase from a checkpoint of one, whose classifiers it has."""
        given = {key.removeprefix("module.") for key in weights}
        if hasattr(self.model, "replaced_keys") and _added_keys(self.model) & given:
            raise ValueError(
                f"checkpoint {self._path} is already of the second phase, which "
                f"{type(self.model).__name__} starts anew: give the checkpoint of the first phase, "
                "train.init_checkpoint=MODEL.pth, or continue an interrupted training with --resume"
            )

    def _log_incompatible_keys(self, incompatible: Any) -> None:
        if self.allow_partial:
            super()._log_incompatible_keys(incompatible)
            return
        misshaped = {key for key, _, _ in incompatible.incorrect_shapes}
        missing = [key for key in incompatible.missing_keys if key not in misshaped]
        may_miss = self._may_miss(missing)
        missing = [key for key in missing if key not in may_miss]
        incorrect = [e for e in incompatible.incorrect_shapes if e[0] not in may_miss]
        problems = [
            *(f"{k}: {given} in the checkpoint, {own} in the model" for k, given, own in incorrect),
            *(f"{key}: missing in the checkpoint" for key in missing),
            *(f"{key}: in the checkpoint, missing in the model" for key in self._ignored),
        ]
        if problems:
            hint = self._other_model(missing) or _number_of_classes(incorrect)
            if not hint and self._ignored:
                hint = ": use the config of its training, such as config.yaml beside it"
            advice = (
                "\ntrain.class_transfer=by_name starts from a detector of other classes, and "
                "train.allow_partial_checkpoint=True loads the weights that fit and leaves the "
                "others at their initial values"
            )
            raise ValueError(
                f"the checkpoint does not fit the model{hint}:\n"
                + "\n".join(_shortened(problems))
                + advice * (self.allow_partial is not None)
            )
        if self._report is not None:
            self._report.log()
            return
        super()._log_incompatible_keys(incompatible)

    def _other_model(self, missing: list[str]) -> str:
        """Return a hint at a checkpoint of the first phase, or of another kind of model."""
        added, number = _added_keys(self.model), len(self.model.state_dict())
        name = type(self.model).__name__
        if added and set(missing) == added:
            return (
                f": it is of the first phase, from which {name} is trained, and not of the second"
            )
        if 2 * len(missing) > number:
            return f": it lacks {len(missing)} of the {number} weights of this {name}"
        return ""

    def _may_miss(self, missing: list[str]) -> Set[str]:
        if self.require_all:
            return set()
        added = _added_keys(self.model)
        if not added:
            # A backbone lacks the heads; without any weight, it is a checkpoint of another model.
            has_any = len(missing) < len(self.model.state_dict())
            return set(missing) if has_any else set()
        replaced = getattr(self.model, "replaced_keys", frozenset())
        return added | replaced if added.issubset(missing) else set()


def reason_of(error: BaseException) -> str:
    """Return why a checkpoint cannot be read, in one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, UnpicklingError):  # PyTorch advises to run the code in the file
        text = text.rpartition("WeightsUnpickler error: ")[2].partition(" Check the doc")[0]
        text = text.partition(". ")[0]
        return f"it is not a file of torch.save with tensors and plain values ({text})"
    return text


def _added_keys(model: nn.Module) -> frozenset[str]:
    return getattr(model, "added_keys", frozenset())


def _would_change_output(key: str, parts: Mapping[str, nn.Module]) -> bool:
    """Return whether a weight that the model lacks is in its backbone or in one of its layers."""
    name = key
    while name and name not in parts:
        name = name.rpartition(".")[0]
    return key.startswith("backbone.") or any(True for _ in parts[name].parameters(recurse=False))


def _shortened(lines: list[str]) -> list[str]:
    """Indent the first lines, and replace the others by their number."""
    more = len(lines) - MAX_LISTED
    shown = [*lines[:MAX_LISTED], f"... and {more} more"] if more > 0 else lines
    return [f"  {line}" for line in shown]


def _number_of_classes(incorrect_shapes: list[tuple[str, tuple, tuple]]) -> str:
    """Return a hint at another number of classes, read from the class counts or logits."""
    for key, given, expected in incorrect_shapes:
        if key.endswith("class_counts"):
            return f": it was trained with {given[0] - 1} classes, the model has {expected[0] - 1}"
        if "mask_head" in key and key.endswith("predictor.bias"):
            return f": it was trained with {given[0]} classes, the model has {expected[0]}"
    return ""
