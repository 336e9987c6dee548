"""Export of trained models to TorchScript and ONNX.

An exported model maps one ``(3, H, W)`` uint8 image, resized and in the channel order of the model,
to the outputs in :data:`OUTPUTS`, in coordinates of that image. Masks stay on their boxes.

Shapes in this module:
    D: detections
    C: classes
"""

from __future__ import annotations

import io
import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from detectron2.export import TracingAdapter
from detectron2.export.torchscript_patch import patch_builtin_len
from detectron2.modeling.meta_arch import GeneralizedRCNN, SemanticSegmentor
from torch import Tensor, nn

from d2_seesaw.inference.export_comparison import ExportError, Outputs, first_line

OUTPUTS = {
    "pred_boxes": "(D, 4) left, top, right and bottom in pixels of the input",
    "scores": "(D,) scores of the boxes, descending",
    "pred_classes": "(D,) int64 classes, which index class_names and category_ids",
    "pred_masks": "(D, 1, M, M) probabilities inside of each box",
    "mask_scores": "(D,) scores of the masks, for models with mask scoring",
    "sem_seg": "(C, H, W) scores of each pixel",
}
"""Outputs of exported models by name. A model has those of its kind."""

IMAGE = "image"
ONNX_OPSET = 19
"""The first version with deformable convolution."""

ONNX_NEWEST = 20
"""The newest version that this exporter of PyTorch knows."""


class TraceableModel(nn.Module):
    """Model for one image with tensors as input and outputs.

    Args:
        model: A ``GeneralizedRCNN`` or ``SemanticSegmentor``, in evaluation mode.

    Raises:
        ExportError: the model is of another kind, such as one with test-time augmentation.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        if not isinstance(model, (GeneralizedRCNN, SemanticSegmentor)):
            raise ExportError(
                f"{type(model).__name__} cannot be exported: only models for instances "
                "(GeneralizedRCNN) and for semantic segmentation (SemanticSegmentor) can"
            )
        self.model = model
        self.eval()

    @property
    def limits(self) -> tuple[float, int | None]:
        """Lowest score and largest number of detections in an image."""
        predictor: Any = getattr(getattr(self.model, "roi_heads", None), "box_predictor", None)
        last: Any = predictor[-1] if isinstance(predictor, nn.ModuleList) else predictor
        if last is None:
            return 0.0, None
        return float(last.test_score_thresh), int(last.test_topk_per_image)

    def forward(self, image: Tensor) -> Outputs:
        """Map a ``(3, H, W)`` image to outputs by name, see :data:`OUTPUTS`."""
        if isinstance(self.model, SemanticSegmentor):
            return {"sem_seg": self.model([{IMAGE: image}])[0]["sem_seg"]}
        detector: Any = self.model
        found = detector.inference([{IMAGE: image}], do_postprocess=False)[0]
        fields = found.get_fields()
        tensors = {"pred_boxes": fields["pred_boxes"].tensor} | {
            name: fields[name] for name in OUTPUTS if name in fields and name != "pred_boxes"
        }
        return dict(sorted(tensors.items()))  # the order in which Detectron2 flattens them


@contextmanager
def _tracing() -> Iterator[None]:
    """Let the number of boxes stay variable in our modules, as Detectron2 does in its own."""
    own = [name for name in sys.modules if name.startswith("d2_seesaw.modeling")]
    with (
        torch.no_grad(),
        patch_builtin_len(own),
        _quiet(),
    ):
        yield


def _adapter(model: TraceableModel, image: Tensor) -> TracingAdapter:
    return TracingAdapter(model, image).eval()


def export_torchscript(model: TraceableModel, path: str | Path, image: Tensor) -> None:
    """Trace a model with an image and save it.

    Args:
        model: The model.
        path: File to write.
        image: ``(3, H, W)`` uint8 image. Other sizes work with the exported model.

    Raises:
        ExportError: the model cannot be traced.
    """
    adapter = _adapter(model, image)
    try:
        with _tracing():
            traced = torch.jit.trace(adapter, (image,), check_trace=False)
            torch.jit.save(traced, str(path))
    except (RuntimeError, TypeError, ValueError) as error:
        raise ExportError(f"the model cannot be traced: {first_line(error)}") from error


def export_onnx(
    model: TraceableModel, path: str | Path, image: Tensor, *, opset: int = ONNX_OPSET
) -> None:
    """Write a model in ONNX; the height and width of its input are variable.

    Args:
        model: The model.
        path: File to write.
        image: ``(3, H, W)`` uint8 image to trace with.
        opset: Version of the operators.

    Raises:
        ExportError: an operator does not exist in ONNX.
    """
    _register_deform_conv()
    adapter = _adapter(model, image)
    with torch.no_grad():
        names = list(model(image))
    try:
        with _tracing():
            torch.onnx.export(
                adapter,
                (image,),
                str(path),
                input_names=[IMAGE],
                output_names=names,
                dynamic_axes={IMAGE: {1: "height", 2: "width"}} | {n: {0: "D"} for n in names},
                opset_version=opset,
                dynamo=False,  # its graph has neither torchvision's NMS nor variable sizes
            )
    except (RuntimeError, TypeError, ValueError) as error:
        raise ExportError(f"the model cannot be written in ONNX: {first_line(error)}") from error
    finally:
        adapter.eval()


def _register_deform_conv() -> None:
    """Let torch's exporter write torchvision's deformable convolution as that of ONNX."""
    from torch.onnx import register_custom_op_symbolic, symbolic_helper  # pyright: ignore

    arguments: Any = ["v"] * 5 + ["i"] * 8 + ["b"]

    @symbolic_helper.parse_args(*arguments)
    def symbolic(  # the exporter reads the names of the arguments
        graph: Any,
        x: Any,
        weight: Any,
        offset: Any,
        mask: Any,
        bias: Any,
        stride_h: int,
        stride_w: int,
        pad_h: int,
        pad_w: int,
        dilation_h: int,
        dilation_w: int,
        groups: int,
        offset_groups: int,
        uses_mask: bool,
    ) -> Any:
        return graph.op(
            "DeformConv",
            *[x, weight, offset, bias, *([mask] if uses_mask else [])],
            strides_i=[stride_h, stride_w],
            pads_i=[pad_h, pad_w, pad_h, pad_w],
            dilations_i=[dilation_h, dilation_w],
            group_i=groups,
            offset_group_i=offset_groups,
        )

    register_custom_op_symbolic("torchvision::deform_conv2d", symbolic, ONNX_OPSET)


def load_torchscript(path: str | Path, names: Sequence[str]) -> Callable[[Tensor], Outputs]:
    """Load a traced model; ``names`` are those of its outputs."""
    with _quiet():
        traced = torch.jit.load(str(path))

    def run(image: Tensor) -> Outputs:
        with torch.no_grad():
            return dict(zip(names, traced(image), strict=True))

    return run


def load_onnx(path: str | Path) -> Callable[[Tensor], Outputs]:
    """Load an ONNX model on the CPU."""
    from onnxruntime import InferenceSession

    session = InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(image: Tensor) -> Outputs:
        arrays = session.run(None, {IMAGE: image.numpy()})
        return {name: torch.as_tensor(a) for name, a in zip(names, arrays, strict=True)}

    return run


def require_onnx() -> None:
    """Check that the packages for ONNX are installed.

    Raises:
        ImportError: one is missing.
    """
    for package in ("onnx", "onnxruntime"):
        if find_spec(package) is None:
            raise ImportError(f"ONNX needs {package}: pip install onnx onnxruntime")


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide warnings of values that a trace keeps, whose effect the comparison finds."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        # The exporter prints the whole graph where an operator is missing.
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
