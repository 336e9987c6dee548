"""Conversion of mmdet's Seesaw and HTC models, by rules on the names that account for every tensor.

No tensor is permuted or rescaled: both frameworks use the same order of channels, anchors, box
deltas and classes (ascending LVIS category ids). One value changes its type: mmdet counts the
sampled RoIs of each class in float32; ``class_counts`` holds the same whole numbers as integers.

A .pth file is a pickle, which can run any code. PyTorch's restricted reader builds tensors and
plain containers and refuses everything else. Files of mmdet 3.x also contain the history of the
losses, as objects of mmengine and NumPy. It is not needed here, so exactly those names are mapped
to an inert stand-in; nothing of these packages is imported or called.
"""

import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from d2_seesaw.checkpoint.contents import check_checksums, check_contents
from d2_seesaw.checkpoint.safetensors_files import is_safetensors, read_safetensors

_AFFINE = "(weight|bias)"
_NORM = "(weight|bias|running_mean|running_var)"

# mmdet's whole key -> Detectron2's; the first match decides. ``<\1+2>`` is a sum. The optional
# group ``(\.\d)?`` is the stage of a cascade, whose heads are lists in both frameworks.
RULES = (
    (r"backbone\.conv1\.weight", r"backbone.bottom_up.stem.conv1.weight"),
    (rf"backbone\.bn1\.{_NORM}", r"backbone.bottom_up.stem.conv1.norm.\1"),
    (
        r"backbone\.layer(\d)\.(\d+)\.conv(\d)\.weight",
        r"backbone.bottom_up.res<\1+1>.\2.conv\3.weight",
    ),
    (
        rf"backbone\.layer(\d)\.(\d+)\.bn(\d)\.{_NORM}",
        r"backbone.bottom_up.res<\1+1>.\2.conv\3.norm.\4",
    ),
    (
        r"backbone\.layer(\d)\.(\d+)\.downsample\.0\.weight",
        r"backbone.bottom_up.res<\1+1>.\2.shortcut.weight",
    ),
    (
        rf"backbone\.layer(\d)\.(\d+)\.downsample\.1\.{_NORM}",
        r"backbone.bottom_up.res<\1+1>.\2.shortcut.norm.\3",
    ),
    (rf"neck\.lateral_convs\.(\d)\.conv\.{_AFFINE}", r"backbone.fpn_lateral<\1+2>.\2"),
    (rf"neck\.fpn_convs\.(\d)\.conv\.{_AFFINE}", r"backbone.fpn_output<\1+2>.\2"),
    (rf"rpn_head\.rpn_conv\.{_AFFINE}", r"proposal_generator.rpn_head.conv.\1"),
    (rf"rpn_head\.rpn_cls\.{_AFFINE}", r"proposal_generator.rpn_head.objectness_logits.\1"),
    (rf"rpn_head\.rpn_reg\.{_AFFINE}", r"proposal_generator.rpn_head.anchor_deltas.\1"),
    (
        rf"roi_head\.bbox_head(\.\d)?\.shared_fcs\.(\d)\.{_AFFINE}",
        r"roi_heads.box_head\1.fc<\2+1>.\3",
    ),
    (rf"roi_head\.bbox_head(\.\d)?\.fc_cls\.{_AFFINE}", r"roi_heads.box_predictor\1.cls_score.\2"),
    (rf"roi_head\.bbox_head(\.\d)?\.fc_reg\.{_AFFINE}", r"roi_heads.box_predictor\1.bbox_pred.\2"),
    (
        r"roi_head\.bbox_head(\.\d)?\.loss_cls\.cum_samples",
        r"roi_heads.box_predictor\1.cls_loss.class_counts",
    ),
    (
        rf"roi_head\.mask_head(\.\d)?\.convs\.(\d)\.conv\.{_AFFINE}",
        r"roi_heads.mask_head\1.mask_fcn<\2+1>.\3",
    ),
    (rf"roi_head\.mask_head(\.\d)?\.upsample\.{_AFFINE}", r"roi_heads.mask_head\1.deconv.\2"),
    (
        rf"roi_head\.mask_head(\.\d)?\.conv_logits\.{_AFFINE}",
        r"roi_heads.mask_head\1.predictor.\2",
    ),
    # HTC: between mask heads, and the semantic branch.
    (
        rf"roi_head\.mask_head\.(\d)\.conv_res\.conv\.{_AFFINE}",
        r"roi_heads.mask_head.conv_res.\1.\2",
    ),
    (
        rf"roi_head\.semantic_head\.lateral_convs\.(\d)\.conv\.{_AFFINE}",
        r"roi_heads.semantic_head.lateral.\1.\2",
    ),
    (
        rf"roi_head\.semantic_head\.convs\.(\d)\.conv\.{_AFFINE}",
        r"roi_heads.semantic_head.convs.\1.\2",
    ),
    (
        rf"roi_head\.semantic_head\.conv_embedding\.conv\.{_AFFINE}",
        r"roi_heads.semantic_head.embedding.\1",
    ),
    (
        rf"roi_head\.semantic_head\.conv_logits\.{_AFFINE}",
        r"roi_heads.semantic_head.logits.\1",
    ),
)
UNUSED = re.compile(r"\.num_batches_tracked$")
COUNTS = re.compile(r"\.class_counts$")

_HARMLESS = (
    "builtins.getattr",  # how the history refers to its own methods
    "mmengine.logging.history_buffer.HistoryBuffer",
    "numpy.dtype",
    "numpy.ndarray",
    "numpy.core.multiarray._reconstruct",  # NumPy 1
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray._reconstruct",  # NumPy 2
    "numpy._core.multiarray.scalar",
)


def convert_mmdet(
    state: Mapping[str, Tensor], model_state: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Rename the weights of an mmdet Mask R-CNN, Cascade Mask R-CNN or HTC (ResNet, FPN) to ours.

    Models trained with Seesaw Loss include their class counts, from which training continues;
    models trained with softmax have none.

    Args:
        state: mmdet's state dict.
        model_state: state dict of the target model, also on the meta device. If given, names and
            shapes are compared in both directions.

    Raises:
        ValueError: keys without a rule or without a counterpart, other shapes, or invalid counts;
            one error lists them all.
    """
    converted: dict[str, Tensor] = {}
    problems: list[str] = []
    for key, value in state.items():
        if UNUSED.search(key):
            continue
        name = rename(key)
        if name is None:
            problems.append(f"{key}: no rule for this key")
        elif COUNTS.search(name) and (wrong := _wrong_counts(value)):
            problems.append(f"{key}: {wrong}")
        else:
            converted[name] = value.to(torch.int64) if COUNTS.search(name) else value
    if model_state is not None:
        renamed = {rename(key) for key in state}
        problems += _misfits(converted, model_state, renamed)
    if problems:
        raise ValueError(
            "these mmdet weights do not fit:\n" + "\n".join(f"  {line}" for line in problems)
        )
    return converted


def rename(key: str) -> str | None:
    """Return the name in our model of mmdet's ``key``; None if there is no rule for it."""
    for pattern, replacement in RULES:
        match = re.fullmatch(pattern, key)
        if match:
            name = match.expand(replacement)
            return re.sub(r"<(\d+)\+(\d+)>", lambda sum: str(int(sum[1]) + int(sum[2])), name)
    return None


def _wrong_counts(counts: Tensor) -> str | None:
    """Return a message if some of the ``(C + 1,)`` numbers are not counts, else None."""
    # Float64 is exact for integers up to 2 ** 53, far more than training samples.
    wrong = ~((counts >= 0) & (counts < 2**53) & (counts == counts.round()))
    if not wrong.any():
        return None
    first = int(wrong.nonzero()[0])
    return (
        f"class counts must be whole numbers from 0, but {int(wrong.sum())} are not, "
        f"the first of them {counts[first].item()} of class {first}"
    )


def _misfits(
    converted: Mapping[str, Tensor], model_state: Mapping[str, Tensor], renamed: set[str | None]
) -> list[str]:
    """Return one line for each name and shape in which weights and model differ."""
    problems = []
    for name, value in converted.items():
        if name not in model_state:
            problems.append(f"{name}: not in the model")
        elif value.shape != model_state[name].shape:
            given, expected = tuple(value.shape), tuple(model_state[name].shape)
            problems.append(f"{name}: {given} in the file, {expected} in the model")
    problems += [
        f"{name}: missing in the file"
        for name in model_state
        if name not in renamed and not UNUSED.search(name)
    ]
    return problems


@dataclass(frozen=True)
class MmdetModel:
    """Properties of an mmdet model that its tensors reveal.

    Attributes:
        depth: depth of the ResNet, 50 or 101.
        cascade: Cascade Mask R-CNN or HTC rather than Mask R-CNN.
        num_classes: C, the number of foreground classes.
        seesaw: trained with Seesaw Loss (C + 2 logits) rather than softmax (C + 1).
        htc: Hybrid Task Cascade, whose mask heads are connected.
        semantic_classes: classes of the semantic branch of HTC; 0 without it.
    """

    depth: int
    cascade: bool
    num_classes: int
    seesaw: bool
    htc: bool = False
    semantic_classes: int = 0


def describe_mmdet(state: Mapping[str, Tensor]) -> MmdetModel:
    """Read depth, architecture, number of classes and loss from an mmdet state dict.

    A normalized mask predictor cannot be recognized: its weights have the same names and shapes.

    Raises:
        ValueError: the model is not a (Cascade) Mask R-CNN or HTC on a ResNet 50 or 101.
    """
    blocks = {m[1] for key in state if (m := re.match(r"backbone\.layer3\.(\d+)\.", key))}
    depth = {6: 50, 23: 101}.get(len(blocks))
    cascade = "roi_head.bbox_head.0.fc_cls.bias" in state
    stage = ".0" if cascade else ""
    sizes = [
        state[key].numel() if key in state and state[key].dim() == 1 else None
        for key in (
            f"roi_head.bbox_head{stage}.fc_cls.bias",
            f"roi_head.mask_head{stage}.conv_logits.bias",
        )
    ]
    num_logits, num_classes = sizes
    if depth is None or num_logits is None or num_classes is None:
        raise ValueError(
            "expected the weights of an mmdet Mask R-CNN, Cascade Mask R-CNN or HTC on a ResNet 50 "
            f"or 101, which have 6 or 23 blocks backbone.layer3.*, ...bbox_head{stage}.fc_cls.bias "
            f"and ...mask_head{stage}.conv_logits.bias; found {len(blocks)} blocks and the sizes "
            f"{num_logits} and {num_classes}"
        )
    if num_logits - num_classes not in (1, 2):
        raise ValueError(
            f"{num_logits} logits for {num_classes} classes: expected {num_classes + 2} (Seesaw "
            f"Loss) or {num_classes + 1} (softmax)"
        )
    semantic = state.get("roi_head.semantic_head.conv_logits.bias")
    return MmdetModel(
        depth,
        cascade,
        num_classes,
        seesaw=num_logits == num_classes + 2,
        htc="roi_head.mask_head.1.conv_res.conv.weight" in state,
        semantic_classes=0 if semantic is None else semantic.numel(),
    )


class _StandIn:
    """Inert replacement for the objects that a file names."""

    def __new__(cls, *args: object) -> "_StandIn":
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        pass


@dataclass(frozen=True)
class MmdetFile:
    """Weights and config of an mmdet checkpoint.

    Attributes:
        state: weights under mmdet's names.
        config: text of the training config; empty if the file has none.
        classes: names of the foreground classes; empty if the file has none.
    """

    state: dict[str, Tensor]
    config: str
    classes: tuple[str, ...] = ()


def read_mmdet_file(path: str | Path, *, trust: bool = False) -> MmdetFile:
    """Read a checkpoint of mmdet 2.x or 3.x.

    Args:
        path: the .pth file, or a .safetensors file of its weights.
        trust: unpickle everything in the file, which may run any code; only for files from a source
            you trust. Such files may need mmengine or mmcv.

    Raises:
        ValueError: the file is damaged, contains objects other than tensors and the known harmless
            ones, has values that are not finite, or has no weights.
        FileNotFoundError: the file does not exist.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{str(path)!r} does not exist")
    try:
        check_checksums(path)
        loaded = _load(path, trust)
    except pickle.UnpicklingError as error:
        raise ValueError(_why_refused(path, error)) from error
    except ModuleNotFoundError as error:
        raise ValueError(f"{path}: contains objects of {error.name!r}; install it first") from error
    except MemoryError:
        raise
    except Exception as error:  # a damaged file raises errors of many kinds
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path} cannot be read: {reason}") from error
    state = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else None
    if not isinstance(state, dict) or not state or not _are_tensors(state):
        raise ValueError(f"{path}: expected a checkpoint of mmdet, with weights in 'state_dict'")
    try:
        check_contents(state)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    meta = loaded.get("meta")
    return MmdetFile(dict(state), _config_text(meta), _classes(meta))


def _load(path: str | Path, trust: bool) -> Any:
    if is_safetensors(path):
        return read_safetensors(path)["model"]
    if trust:
        return torch.load(path, map_location="cpu", weights_only=False)
    with torch.serialization.safe_globals([(_StandIn, name) for name in _HARMLESS]):
        return torch.load(path, map_location="cpu", weights_only=True)


def _why_refused(path: str | Path, error: Exception) -> str:
    names = sorted(set(re.findall(r"GLOBAL ([\w.]+)", str(error))))
    return (
        f"{path}: contains objects other than tensors{': ' if names else ''}{', '.join(names)}. "
        "Reading them would run code from the file. If you trust its source, allow it explicitly: "
        "--trust on the command line, trust=True in Python"
    )


def _are_tensors(state: dict[Any, Any]) -> bool:
    return all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items())


def _config_text(meta: Any) -> str:
    """Return ``meta.config`` of mmdet 2.x or ``meta.cfg`` of 3.x."""
    if not isinstance(meta, dict):
        return ""
    text = meta.get("cfg", meta.get("config", ""))
    return text if isinstance(text, str) else ""


def _classes(meta: Any) -> tuple[str, ...]:
    """Return ``meta.CLASSES`` of mmdet 2.x or ``meta.dataset_meta.classes`` of 3.x."""
    if not isinstance(meta, dict):
        return ()
    of_dataset = meta.get("dataset_meta")
    found = of_dataset if isinstance(of_dataset, dict) else meta
    names = found.get("classes", found.get("CLASSES"))
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        return ()
    return tuple(names)
