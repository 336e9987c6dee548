"""Image classifiers as meta-architectures of Detectron2.

Shapes in this module:
    N: images of a batch
    C: classes
    D: channels of the feature map
    H, W: height and width of the images, the same for all images of a batch
    L: logits of an image; C, or what the loss asks for
"""

from typing import Any

import torch
from detectron2.modeling.backbone import Backbone
from torch import Tensor, nn

from d2_seesaw.layers import LayerFactory
from d2_seesaw.modeling.second_phase import DecoupledTraining


class ImageClassifier(nn.Module):
    """Backbone, global average pooling, a linear classifier and any loss.

    Two kinds of losses fit. A loss over C classes is called as ``loss(logits, labels)`` with
    ``(N, C)`` logits and returns a scalar, such as ``torch.nn.CrossEntropyLoss`` or
    :class:`~d2_seesaw.losses.SeesawCrossEntropyLoss`. A
    :class:`~d2_seesaw.losses.ClassificationLoss` of detection defines its logits and scores; its
    background is never a label here, and its background score is dropped.

    Args:
        backbone: a backbone of Detectron2.
        classifier: a module that maps ``(N, D)`` to ``(N, L)``, or a function that builds one from
            D and L, such as ``linear_classifier()``.
        loss: the loss.
        num_classes: C.
        in_feature: name of the backbone's output; by default its last one.
        pixel_mean: mean of each channel, in [0, 255].
        pixel_std: standard deviation of each channel.
        input_format: channel order of the images, for whoever reads them.

    Raises:
        ValueError: the loss has another number of classes, or the backbone no such output.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        *,
        backbone: Backbone,
        classifier: nn.Module | LayerFactory,
        loss: nn.Module,
        num_classes: int,
        in_feature: str | None = None,
        pixel_mean: tuple[float, ...] = (123.675, 116.28, 103.53),
        pixel_std: tuple[float, ...] = (58.395, 57.12, 57.375),
        input_format: str = "RGB",
    ) -> None:
        super().__init__()
        given = getattr(loss, "num_classes", num_classes)
        if given != num_classes:
            raise ValueError(
                f"num_classes is {num_classes} in the model and {given} in its loss: they must be "
                "equal"
            )
        shapes = backbone.output_shape()
        self.in_feature = list(shapes)[-1] if in_feature is None else in_feature
        if self.in_feature not in shapes:
            raise ValueError(f"in_feature must be one of {list(shapes)}, got {in_feature!r}")
        self.backbone = backbone
        if not isinstance(classifier, nn.Module):
            channels: Any = shapes[self.in_feature].channels
            classifier = classifier(channels, getattr(loss, "num_logits", num_classes))
        self.classifier = classifier
        self.loss = loss
        self.num_classes = num_classes
        self.input_format = input_format
        for name, value in (("pixel_mean", pixel_mean), ("pixel_std", pixel_std)):
            self.register_buffer(name, torch.tensor(value).view(-1, 1, 1), persistent=False)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """Return the losses in training, and scores in inference.

        Args:
            batched_inputs: one dict per image with ``image``, ``(3, H, W)`` in [0, 255], and in
                training its ``label``, a class in ``[0, C)``.

        Returns:
            In training, losses by name. In inference, one dict per image with ``scores``, ``(C,)``
            probabilities.

        Raises:
            ValueError: images of several sizes, or training inputs without labels.
        """
        logits = self.classifier(self.features(batched_inputs))
        if self.training:
            return self._losses(logits, self._labels(batched_inputs))
        return [{"scores": scores} for scores in self.scores(logits)]

    def features(self, batched_inputs: list[dict[str, Any]]) -> Tensor:
        """Return ``(N, D)`` pooled features of a batch."""
        sizes = {tuple(given["image"].shape) for given in batched_inputs}
        if len(sizes) > 1:
            raise ValueError(
                "images of a batch must have one size, got "
                f"{' and '.join(' x '.join(map(str, s[1:])) for s in sorted(sizes)[:2])}: end the "
                "transforms with a crop of a fixed size"
            )
        images = torch.stack([given["image"].to(self.device) for given in batched_inputs])
        images = (images - self.pixel_mean) / self.pixel_std
        return self.backbone(images)[self.in_feature].mean(dim=(2, 3))

    def scores(self, logits: Tensor) -> Tensor:
        """Map ``(N, L)`` logits to ``(N, C)`` probabilities, in at least float32."""
        if hasattr(self.loss, "scores"):
            return self.loss.scores(logits)[:, : self.num_classes]  # pyright: ignore
        dtype = torch.promote_types(logits.dtype, torch.float32)
        return logits.softmax(dim=1, dtype=dtype)

    def _labels(self, batched_inputs: list[dict[str, Any]]) -> Tensor:
        unlabeled = [given for given in batched_inputs if "label" not in given]
        if unlabeled:
            name = unlabeled[0].get("file_name", "an image")
            raise ValueError(f"training needs labels: {name} has none")
        return torch.tensor([given["label"] for given in batched_inputs], device=self.device)

    def _losses(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        losses = self.loss(logits, labels)
        return losses if isinstance(losses, dict) else {"loss_cls": losses}


class DecoupledClassifier(DecoupledTraining, ImageClassifier):
    """:class:`ImageClassifier` that trains only its last layer, in a second phase.

    See :class:`DecoupledRCNN` for the checkpoints that it starts from.

    Args:
        init: ``"random"`` trains a new classifier (classifier re-training, cRT), ``"keep"`` the one
            of the first phase, and ``"scale"`` one factor on each logit of the frozen classifier
            (learnable weight scaling, LWS).
        fresh_counts: start the state of the loss, such as class counts, at zero.
        parts: arguments of :class:`ImageClassifier`.

    Raises:
        ValueError: ``init`` is unknown.
    """

    def __init__(self, *, init: str = "random", fresh_counts: bool = True, **parts: Any) -> None:
        super().__init__(**parts)
        self.start_decoupled(init, fresh_counts)

    def classifiers(self) -> list[tuple[nn.Module, nn.Module]]:
        """Return the classifier and the loss."""
        return [(self.classifier, self.loss)]

    def features(self, batched_inputs: list[dict[str, Any]]) -> Tensor:
        """Return ``(N, D)`` pooled features of a batch, without gradients."""
        with torch.no_grad():
            return super().features(batched_inputs)
