"""Start of a training from a detector of other classes: what belongs to classes goes by name.

Rows of classifiers, class-specific boxes, masks and mask scores are copied for the classes whose
names agree. Other classes keep the initial values of the model.

Shapes in this module:
    C: classes of the model
    S: classes of the checkpoint
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from detectron2.data import MetadataCatalog
from torch import Tensor, nn

from d2_seesaw.checkpoint.class_layers import (
    OTHERS,
    ClassLayer,
    class_layers,
    is_normalized,
    loss_prefixes,
    roles,
    rows_of,
)
from d2_seesaw.checkpoint.class_matching import ClassMatches, match_class_names
from d2_seesaw.checkpoint.class_metadata import METADATA, number_of_classes
from d2_seesaw.checkpoint.contents import NORMALIZED

logger = logging.getLogger(__name__)

_SHOWN = 12  # class names of a message
_OTHER_BIAS = "its scale differs between plain and normalized layers"

KNOWN_CLASSES = {
    80: ("COCO", "coco_2017_train"),
    1203: ("LVIS v1", "lvis_v1_train"),
    1230: ("LVIS v0.5", "lvis_v0.5_train"),
}
"""Name and dataset of the classes of a checkpoint without class names, by their number."""


@dataclass
class TransferReport:
    """Account of every tensor of the model and of the checkpoint.

    Attributes:
        matches: matched classes.
        origin: description of the classes of the checkpoint.
        by_name: what was copied, by the name of the model's tensor.
        new: reason for each tensor of the model that keeps its initial values.
        unused: reason for each tensor of the checkpoint that is not used.
        loaded: names of the tensors that are the checkpoint's.
    """

    matches: ClassMatches
    origin: str
    by_name: dict[str, str] = field(default_factory=dict)
    new: dict[str, str] = field(default_factory=dict)
    unused: dict[str, str] = field(default_factory=dict)
    loaded: list[str] = field(default_factory=list)

    def complete(self, model_keys: Iterable[str], incompatible: Any) -> None:
        """Add the tensors that do not depend on classes.

        Args:
            model_keys: names of all tensors of the model.
            incompatible: result of loading the transferred weights.
        """
        misshaped = {name for name, _, _ in incompatible.incorrect_shapes}
        for name in incompatible.missing_keys:
            other = "of another shape" if name in misshaped else "missing"
            self.new.setdefault(name, f"{other} in the checkpoint")
        for name in misshaped:
            self.unused.setdefault(name, "of another shape in the model")
        for name in incompatible.unexpected_keys:
            self.unused.setdefault(name, "missing in the model")
        known = {*self.by_name, *self.new}
        self.loaded = [name for name in model_keys if name not in known]

    def lines(self) -> list[str]:
        """Return the report as text."""
        found, new = self.matches.found(), self.matches.new()
        text = f"{len(found)} of {len(found) + len(new)} classes found by name in {self.origin}"
        lines = [
            f"{text}{': ' * bool(found)}{_listed(found)}",
            *([f"{len(new)} new: {_listed(new)}"] if new else []),
            *(
                f"{name!r} is new, because it could be {several}"
                for name, several in self.matches.ambiguous.items()
            ),
        ]
        for title, tensors in (
            ("by name", self.by_name),
            ("initial values", self.new),
            ("not used", self.unused),
        ):
            lines += [f"{title}: {line}" for line in _grouped(tensors)]
        return [*lines, f"{len(self.loaded)} other tensors loaded"]

    def log(self) -> None:
        """Log the report, as a warning if no class was found."""
        none = not self.matches.found()
        text = "Start from other classes: " + "\n  ".join(self.lines())
        if none:
            text += (
                "\n  No class has a name in common: only what does not depend on classes is used"
            )
        logger.log(logging.WARNING if none else logging.INFO, text)


@dataclass(frozen=True)
class ClassTransfer:
    """Transfer of a checkpoint to a model of other classes, by name.

    Args:
        names: class names of the model.
        aliases: class of the checkpoint for a class of the model, see :func:`match_class_names`.
        checkpoint_names: class names of the checkpoint. By default those in its metadata, or else
            those of COCO or LVIS, if it has as many classes.
        checkpoint_names_from: source of ``checkpoint_names``, for the report.
    """

    names: Sequence[str]
    aliases: Mapping[str, str] = field(default_factory=dict)
    checkpoint_names: Sequence[str] | None = None
    checkpoint_names_from: str = "train.checkpoint_classes"

    def apply(
        self, model: nn.Module, checkpoint: Mapping[str, Any]
    ) -> tuple[dict[str, Tensor], TransferReport | None]:
        """Return the weights of a checkpoint for a model, and a report without the loaded tensors.

        Args:
            model: a detector, not wrapped in DDP, with its initial values.
            checkpoint: with "model", and "metadata" if it is known.

        Returns:
            The weights; those that do not depend on classes unchanged. No report for a backbone,
            which has no layers of classes.

        Raises:
            ValueError: the model is not a detector, or extends a trained one; the class names of
                the checkpoint are unknown, or their number is not that of its layers; a checkpoint
                of the second phase, whose learned scales would be lost.
        """
        weights = {
            name.removeprefix("module."): torch.as_tensor(value)
            for name, value in checkpoint["model"].items()
        }
        layers = _layers_of(model, self.names)
        if not any(rows_of(layer, weights) for layer in layers):
            return weights, None
        _check_checkpoint(weights, checkpoint)
        names, origin = self._names_of(checkpoint, layers, weights)
        matches = match_class_names(self.names, names, self.aliases)
        report = TransferReport(matches, origin)
        _drop_losses(model, weights, report)
        for layer in layers:
            _transfer(layer, weights, checkpoint.get(METADATA) or {}, report)
        return weights, report

    def _names_of(
        self, checkpoint: Mapping[str, Any], layers: list[ClassLayer], weights: Mapping[str, Tensor]
    ) -> tuple[Sequence[str], str]:
        """Return the class names of a checkpoint and a description of them."""
        numbers = _numbers_of_classes(layers, weights)
        metadata = checkpoint.get(METADATA) or {}
        names, source = self.checkpoint_names, self.checkpoint_names_from
        if names is None and metadata.get("class_names"):
            names, source = metadata["class_names"], str(metadata.get("dataset", "the checkpoint"))
        if names is not None:
            if len(names) not in numbers:
                raise ValueError(
                    f"{source} has {len(names)} class names, but the layers of the checkpoint are "
                    f"of {_either(numbers)} classes: give train.checkpoint_classes=FILE_OR_DATASET"
                )
            return names, f"{source} ({len(names)} classes)"
        known = [number for number in numbers if number in KNOWN_CLASSES]
        if len(known) != 1:
            raise ValueError(
                f"the checkpoint has {_either(numbers)} classes and no class names: give "
                "train.checkpoint_classes=FILE_OR_DATASET, an annotation file, a text file with a "
                "name per line, or a registered dataset"
            )
        title, dataset = KNOWN_CLASSES[known[0]]
        text = f"{title} ({known[0]} classes, whose names are assumed because of their number)"
        return MetadataCatalog.get(dataset).thing_classes, text


def _layers_of(model: nn.Module, names: Sequence[str]) -> list[ClassLayer]:
    extended = getattr(model, "added_keys", None)
    if extended:
        raise ValueError(
            f"train.class_transfer starts a new training, but {type(model).__name__} extends a "
            "trained model of the same classes: leave it out"
        )
    layers = class_layers(model)
    if not layers:
        raise ValueError(
            f"train.class_transfer needs a detector, whose layers of classes are known, but the "
            f"model is a {type(model).__name__}"
        )
    expected = number_of_classes(model)
    if len(names) != expected:
        raise ValueError(f"{len(names)} class names given, the model has {expected} classes")
    return layers


def _check_checkpoint(weights: Mapping[str, Tensor], checkpoint: Mapping[str, Any]) -> None:
    if any(".class_scales." in name for name in weights):
        raise ValueError(
            "train.class_transfer does not support a checkpoint with learned scales of logits, "
            "which are from a second phase: give the checkpoint of the first phase"
        )
    if checkpoint.get("matching_heuristics"):
        raise ValueError(
            "train.class_transfer does not support detectors whose tensors are matched by "
            "similarity of names, such as those of Caffe2: use one of Detectron2's model zoo"
        )


def _numbers_of_classes(layers: list[ClassLayer], weights: Mapping[str, Tensor]) -> list[int]:
    """Return the possible numbers of classes of a checkpoint, by all its layers of classes."""
    possible: set[int] | None = None
    for layer in layers:
        rows = rows_of(layer, weights)
        if not rows:
            continue
        if layer.is_classifier:
            groups = weights.get(_counts_of_groups(layer))
            found = {rows - 1, rows - 2} if groups is None else {len(groups)}
        elif rows % layer.outputs or rows == layer.outputs:
            continue  # one output for all classes
        else:
            found = {rows // layer.outputs}
        possible = found if possible is None else possible & found
    return sorted(possible or ())


def _counts_of_groups(layer: ClassLayer) -> str:
    """Return the key of the class counts of balanced group softmax, whose groups have outputs."""
    return f"{layer.name.removesuffix('cls_score')}cls_loss.training_split.counts"


def _either(numbers: Sequence[int]) -> str:
    return " or ".join(map(str, numbers)) or "different numbers of"


def _drop_losses(model: nn.Module, weights: dict[str, Tensor], report: TransferReport) -> None:
    """Leave out the state of losses, which belongs to the data of the checkpoint."""
    prefixes = loss_prefixes(model)
    for name in [name for name in weights if name.startswith(prefixes)]:
        del weights[name]
        report.unused[name] = "state of the loss on other data"
    for name in model.state_dict():
        if name.startswith(prefixes):
            report.new[name] = "state of the loss, which starts anew"


def _transfer(
    layer: ClassLayer,
    weights: dict[str, Tensor],
    metadata: Mapping[str, Any],
    report: TransferReport,
) -> None:
    """Replace the tensors of a layer by the initial ones with the rows of matched classes."""
    own = {f"{layer.name}.{name}": value for name, value in layer.module.state_dict().items()}
    rows, given = rows_of(layer, own), rows_of(layer, weights)
    if not rows or not given:
        for name in [name for name in weights if name.startswith(f"{layer.name}.")]:
            del weights[name]
            report.unused[name] = "layer of classes without a weight for each"
        return
    targets, sources, text = _rows(layer, rows, given, report.matches)
    source_is_normalized = _source_is_normalized(layer, given, metadata, report.matches)
    same_kind = source_is_normalized == is_normalized(layer.module)
    for name, initial in own.items():
        value = weights.get(name)
        if value is None or value.shape[1:] != initial.shape[1:] or len(initial) != rows:
            continue  # another layer, which the check of shapes refuses
        del weights[name]
        if not targets:
            report.new[name] = report.unused[name] = text
        elif not same_kind and initial.dim() == 1:
            report.new[name] = report.unused[name] = _OTHER_BIAS
        else:
            chosen = value[sources].to(initial)
            if not same_kind:  # the rows of a normalized layer may have any norm
                chosen = _with_norms_of(chosen, initial[targets])
            result = initial.clone()
            result[targets] = chosen
            weights[name] = result
            report.by_name[name] = text if same_kind else f"{text}, their directions"


def _rows(
    layer: ClassLayer, rows: int, given: int, matches: ClassMatches
) -> tuple[list[int], list[int], str]:
    """Return rows of the model's layer, the checkpoint's rows for them, and what these are."""
    num_own, num_given = len(matches.names), len(matches.theirs)
    pairs = [(c, source) for c, source in enumerate(matches.sources) if source is not None]
    text, extras = f"{len(pairs)} classes", []
    if layer.is_classifier:
        places = {role: num_given + i for i, role in enumerate(roles(given - num_given))}
        for i, role in enumerate(roles(rows - num_own)):
            if role != OTHERS and role in places:
                pairs.append((num_own + i, places[role]))
                extras.append(role)
        if not pairs:  # a sigmoid for each class has no background
            return [], [], "no class in common"
        own, source = zip(*pairs, strict=True)
        return [*own], [*source], f"{' and '.join([text, *extras])}"
    k = layer.outputs
    if given == k:  # one set for all classes
        return list(range(rows)), list(range(k)) * (rows // k), "that of all classes"
    if rows == k and num_own > 1:
        return [], [], "one for all classes, but one for each in the checkpoint"
    if not pairs:
        return [], [], "no class in common"
    own, source = zip(*pairs, strict=True)
    return _expanded(own, k), _expanded(source, k), text


def _expanded(classes: Sequence[int], k: int) -> list[int]:
    return [k * c + i for c in classes for i in range(k)]


def _source_is_normalized(
    layer: ClassLayer, given: int, metadata: Mapping[str, Any], matches: ClassMatches
) -> bool:
    """Return whether a layer of the checkpoint is normalized, which its tensors do not show."""
    if NORMALIZED in metadata:
        return layer.name in metadata[NORMALIZED]
    if layer.is_classifier and given - len(matches.theirs) != 1:
        return is_normalized(layer.module)  # of Seesaw Loss, without metadata: the usual case
    return False  # Detectron2 has plain layers only


def _with_norms_of(rows: Tensor, initial: Tensor) -> Tensor:
    """Scale rows to the norms of the initial ones, on which the size of a step depends."""
    norm, initial_norm = (
        torch.linalg.vector_norm(value.flatten(1), dim=1).view(-1, *[1] * (value.dim() - 1))
        for value in (rows, initial)
    )
    return rows / norm.clamp(min=torch.finfo(rows.dtype).tiny) * initial_norm


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _grouped(tensors: Mapping[str, str]) -> list[str]:
    """Return one line for each layer and reason."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name, reason in tensors.items():
        groups.setdefault((name.rpartition(".")[0], reason), []).append(name)
    lines = []
    for (layer, reason), names in groups.items():
        last = ", ".join(name.rpartition(".")[2] for name in names)
        lines.append(f"{f'{layer}: ' * bool(layer)}{last} ({reason})")
    return lines
