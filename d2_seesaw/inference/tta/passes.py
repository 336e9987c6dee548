"""Passes of a model over the views of one image, which are made and forgotten on the way."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from detectron2.modeling.meta_arch import GeneralizedRCNN

from d2_seesaw.inference.tta.views import View

T = TypeVar("T")

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class ViewPasses:
    """Runs a model on an image's views, ``batch_size`` at a time.

    Nothing of a view outlives its turn but what the caller keeps, so memory is that of the largest
    batch of views. A second pass makes the views, and their features, again.

    Args:
        model: in evaluation mode.
        image: ``(height, width, channels)``, the original.
        views: in the order in which they are run.
        batch_size: views per forward. Views of different sizes are padded to the largest.
        amp_dtype: of autocast; None for none.
    """

    model: GeneralizedRCNN
    image: np.ndarray
    views: list[View]
    batch_size: int = 1
    amp_dtype: torch.dtype | None = None

    def each(
        self, run: Callable[[list[View], list[dict[str, Any]]], list[T]]
    ) -> Iterator[tuple[View, T]]:
        """Each view with its part of what ``run`` returned for the views of its batch.

        Args:
            run: takes views and the model inputs they are, returns one thing for each.
        """
        for start in range(0, len(self.views), self.batch_size):
            views = self.views[start : start + self.batch_size]
            with self._autocast():
                results = run(views, [{"image": view.image(self.image)} for view in views])
            yield from zip(views, results, strict=True)

    def _autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(
            self.model.device.type, dtype=self.amp_dtype, enabled=self.amp_dtype is not None
        )
