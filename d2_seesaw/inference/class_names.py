"""Class names of a model against those of the data that it is evaluated on or trained with.

A model numbers its classes. The names in its checkpoint, or those of its training split, say which
classes these are. Splits with the same names in another order are mapped, see ``compare_names``.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.data import MetadataCatalog
from omegaconf import DictConfig, OmegaConf
from torch import nn

from d2_seesaw.checkpoint import ClassTransfer, class_metadata, read_class_metadata
from d2_seesaw.data.annotations.reader import read_categories
from d2_seesaw.data.class_names import compare_names, compare_with_trained

logger = logging.getLogger(__name__)

# Of a detector, and of an image classifier.
_NUMBER_OF_CLASSES = ("model.roi_heads.num_classes", "model.num_classes")


def check_class_names_of_splits(cfg: DictConfig, *, eval_only: bool) -> None:
    """Compare the classes of the model with those of the datasets, before anything is built.

    A missing class would silently be trained as background, and a class of another name would be
    scored as a wrong detection.

    Args:
        cfg: The config.
        eval_only: Whether the model is that of ``train.init_checkpoint``, whose class names count.

    Raises:
        ValueError: the number of classes differs from that of the training split, or the evaluated
            split has names that the model lacks.
    """
    expected = _number_of_classes(cfg)
    if expected is None:
        return
    key = _NUMBER_OF_CLASSES[OmegaConf.select(cfg, "model.roi_heads") is None]
    train, test = (_first_name(cfg, split) for split in ("train", "test"))
    names, source = _thing_classes(train), f"training split {train!r}"
    if not eval_only:
        _check_number(train, names, expected, key)
    elif saved := read_class_metadata(cfg.train.init_checkpoint).get("class_names"):
        names, source = saved, f"checkpoint {cfg.train.init_checkpoint}"
    elif names is not None and len(names) != expected:  # as in `trained_classes`
        names = None
    evaluated = _thing_classes(test)
    if names is None:
        _check_number(test, evaluated, expected, key)
    elif evaluated is not None and len(names) == expected:  # else, the checkpoint does not fit
        compare = compare_names if eval_only else compare_with_trained
        compare(names, evaluated, source=source, target=f"dataset {test!r}")


def _number_of_classes(cfg: DictConfig) -> int | None:
    """Return the classes of a detector or an image classifier, None for other models."""
    found = (OmegaConf.select(cfg, key) for key in _NUMBER_OF_CLASSES)
    return next((number for number in found if number is not None), None)


def _check_number(dataset: Any, names: Sequence[str] | None, expected: int, key: str) -> None:
    if names is not None and len(names) != expected:
        raise ValueError(
            f"dataset {dataset!r} has {len(names)} categories, the model {expected} classes: "
            f"set {key}={len(names)}"
        )


def _first_name(cfg: DictConfig, split: str) -> str | None:
    names = OmegaConf.select(cfg, f"dataloader.{split}.dataset.names")
    return names if names is None or isinstance(names, str) else names[0]


def _thing_classes(dataset: str | None) -> Sequence[str] | None:
    if dataset not in MetadataCatalog.list():
        return None
    return MetadataCatalog.get(dataset).get("thing_classes")


def trained_classes(cfg: DictConfig, model: nn.Module, loaded: Mapping[str, Any]) -> dict[str, Any]:
    """Return the class metadata of a loaded checkpoint, or else of the training split.

    Args:
        cfg: The config.
        model: The model.
        loaded: Extras of the checkpoint, as returned by ``StrictCheckpointer.load``.

    Returns:
        As ``class_metadata``, with "dataset" as the source of the names. Without "class_names" if
        neither is known, or if the training split has another number of classes.
    """
    saved = loaded.get("metadata") or {}
    if saved.get("class_names"):
        return {**saved, "dataset": "the checkpoint"}
    train = _first_name(cfg, "train")
    try:
        found = class_metadata(train, model) if train is not None else {}
    except (OSError, ValueError) as error:  # its files are not needed for evaluation
        logger.debug("class names of %s cannot be read: %s", train, error)
        return {}
    expected = _number_of_classes(cfg)
    fits = expected in (None, len(found.get("class_names", ())))
    return {**found, "dataset": f"training split {train!r}"} if fits else {}


def set_class_names(evaluator: Any, metadata: Mapping[str, Any], cfg: DictConfig) -> None:
    """Give an evaluator the class names of the model.

    Args:
        evaluator: An evaluator; one without ``set_class_names`` cannot map classes.
        metadata: Class metadata of the model, see ``class_metadata``.
        cfg: The config, which names the evaluated dataset.

    Raises:
        ValueError: the evaluated split has other names, or another order that cannot be mapped.
    """
    names, source = metadata.get("class_names"), str(metadata.get("dataset", "the model"))
    if not names:
        return
    if hasattr(evaluator, "set_class_names"):
        evaluator.set_class_names(names, source)
        return
    test = _first_name(cfg, "test")
    evaluated = _thing_classes(test)
    if evaluated is None or OmegaConf.select(cfg, "model.roi_heads") is None:
        return
    mapping = compare_names(names, evaluated, source=source, target=f"dataset {test!r}")
    if mapping.message:
        raise ValueError(
            f"{mapping.message}, which {type(evaluator).__name__} cannot do: use an evaluator of "
            "d2_seesaw, or number the classes of both splits alike"
        )


def check_initial_classes(
    loaded: Mapping[str, Any], metadata: Mapping[str, Any], path: str, *, resumed: bool
) -> None:
    """Compare the classes of the checkpoint that a training starts from with its training split.

    Args:
        loaded: Extras of the checkpoint.
        metadata: Class metadata of the training split.
        path: Path of the checkpoint.
        resumed: Whether the training is resumed. Otherwise other classes are only a warning.

    Raises:
        ValueError: a resumed training has other classes, or another order of them.
    """
    saved = (loaded.get("metadata") or {}).get("class_names")
    names = metadata.get("class_names")
    if not saved or not names or list(saved) == list(names):
        return
    index = next((i for i, (a, b) in enumerate(zip(saved, names, strict=False)) if a != b), None)
    example = f"{len(saved)} and {len(names)} classes"
    if index is not None:
        example = f"class {index} is {saved[index]!r} there and {names[index]!r} here"
    text = f"{path} was trained on other classes than {metadata['dataset']!r}: {example}"
    if resumed:
        raise ValueError(f"{text}. Start a new training, or restore the annotations")
    logger.warning(
        "%s. Its classifiers start from the weights of these classes; train.class_transfer=by_name "
        "would copy those of equal names",
        text,
    )


def class_transfer(cfg: DictConfig, names: Sequence[str] | None) -> ClassTransfer | None:
    """Return the transfer of classes that ``train.class_transfer`` asks for, None without it.

    Args:
        cfg: The config.
        names: Class names of the training split, None if it has no names.

    Raises:
        ValueError: an unknown value, a training split without names, or no class names in
            ``train.checkpoint_classes``.
        FileNotFoundError: ``train.checkpoint_classes`` is neither a file nor a registered dataset.
    """
    chosen, classes = cfg.train.class_transfer, cfg.train.checkpoint_classes
    aliases = cfg.train.class_aliases or {}
    if chosen not in (None, "by_name"):
        raise ValueError(f"train.class_transfer must be null or 'by_name', got {chosen!r}")
    if not isinstance(aliases, Mapping):
        raise ValueError(
            f"train.class_aliases must hold OWN_NAME: NAME_IN_THE_CHECKPOINT, got {aliases!r}"
        )
    if chosen is None:
        return None
    if names is None:
        raise ValueError(
            "train.class_transfer=by_name needs class names, which the training split "
            f"{_first_name(cfg, 'train')!r} does not have"
        )
    given = {} if classes is None else {"checkpoint_names": _names_in(str(classes))}
    aliases = {str(name): str(their) for name, their in aliases.items()}
    return ClassTransfer(names, aliases, **given, checkpoint_names_from=str(classes))


def _names_in(source: str) -> list[str]:
    """Return the class names of a registered dataset or of a file, in the order of classes."""
    names = _thing_classes(source)
    if names is None and not Path(source).is_file():
        raise FileNotFoundError(
            f"train.checkpoint_classes {source!r} is neither a file nor a registered dataset with "
            "known class names"
        )
    if names is None and source.lower().endswith(".json"):
        found = sorted(read_categories(source), key=lambda category: category["id"])
        names = [str(category["name"]) for category in found]
    elif names is None:
        lines = Path(source).read_text(encoding="utf-8-sig").splitlines()
        names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise ValueError(f"train.checkpoint_classes {source!r} has no class names")
    return [str(name) for name in names]
