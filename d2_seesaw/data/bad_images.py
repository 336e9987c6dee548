"""Images that training cannot use: files that are missing, damaged or of another size.

Missing files are found before the first step. An image that cannot be mapped is named with its file
and its id, and may be replaced by another image of the dataset.
"""

import itertools
import logging
import os
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import numpy as np
from cv2 import error as OpenCVError
from detectron2.utils import comm
from detectron2.utils.serialize import PicklableWrapper
from PIL import Image
from torch.utils.data import Dataset, get_worker_info

from d2_seesaw.data.batch_order import Sample
from d2_seesaw.data.image_files import check_record_image
from d2_seesaw.data.transforms import keep_pixels
from d2_seesaw.utils.random_state import IMAGE, generators_kept, seed_generators

logger = logging.getLogger(__name__)

_THREADS = 16  # on network file systems, many requests at a time are many times faster
_SHOWN = 5
_ATTEMPTS = 20
_KEY = "_bad_images"
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

# Pillow raises SyntaxError and struct.error for some damaged files.
_OF_THE_IMAGE = (
    AssertionError,
    EOFError,
    Image.DecompressionBombError,
    OpenCVError,
    OSError,
    SyntaxError,
    ValueError,
    struct.error,
    zlib.error,
)


class BadImageError(ValueError):
    """Error for more images that cannot be used than ``train.max_bad_images`` allows."""


def check_files_exist(
    files: Iterable[str], kind: str = "image files", places: Mapping[str, str] | None = None
) -> None:
    """Look at every file once; URLs are skipped.

    Args:
        files: paths.
        kind: name of the files in the message.
        places: where files are listed, for the message.

    Raises:
        FileNotFoundError: the number of missing files, and the first five of them.
    """
    paths = [path for path in dict.fromkeys(files) if "://" not in path]
    parts = [paths[start::_THREADS] for start in range(_THREADS)]
    with ThreadPoolExecutor(_THREADS) as pool:
        missing = set(itertools.chain.from_iterable(pool.map(_missing, parts)))
    if missing:
        first = list(itertools.islice((path for path in paths if path in missing), _SHOWN))
        places = places or {}
        first = [f"{path} ({places[path]})" if path in places else path for path in first]
        more = ", ..." if len(missing) > _SHOWN else ""
        raise FileNotFoundError(
            f"{len(missing)} of {len(paths)} {kind} do not exist: {', '.join(first)}{more}"
        )


def _missing(paths: list[str]) -> list[str]:
    return [path for path in paths if not os.path.isfile(path)]


def dataset_files(dataset: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield the image files and label maps of a dataset."""
    if hasattr(dataset, "file_names"):
        yield from dataset.file_names()  # pyright: ignore[reportAttributeAccessIssue]
        return
    for record in dataset:
        for key in ("file_name", "sem_seg_file_name"):
            if record.get(key):
                yield str(record[key])


class MappedDataset(Dataset):
    """Dataset that maps records and replaces those that cannot be mapped.

    Every random number of the mapper and every replacement depends on the seed and on the position
    of the sample, not on the process that loads it. The sample names the images that it replaces;
    :meth:`BadImages.collect` decides whether training may continue.

    Very elongated images keep at least one pixel on each side when they are resized.

    Args:
        records: images as dicts in Detectron2's format.
        mapper: returns a model input, or None for an image that is left out.
        seed: seed of the random numbers.
        is_wide: ``(N,)`` bool; a replacement then has the same value as the image it replaces.
    """

    def __init__(
        self,
        records: Any,
        mapper: Callable[[dict[str, Any]], dict[str, Any] | None],
        seed: int = 0,
        is_wide: np.ndarray | None = None,
    ) -> None:
        self.records = records
        self.mapper = PicklableWrapper(keep_pixels(mapper))
        self.seed = seed
        self.is_wide = is_wide

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, sample: Sample) -> dict[str, Any]:
        """Return the sample for a position in the order of the data and the index of its image.

        The generators of the main process, from which the model draws, are left as they were.

        Raises:
            RuntimeError: the mapper failed for a reason other than the image, or left out all
                images that were tried.
        """
        with generators_kept() if get_worker_info() is None else nullcontext():
            return self._mapped(*sample)

    def _mapped(self, position: int, index: int) -> dict[str, Any]:
        bad: dict[str, str] = {}
        record: dict[str, Any] = {}
        for attempt in range(_ATTEMPTS):
            record = self.records[self.replacement(position, index, attempt)]
            seed_generators(self.seed, IMAGE, position, attempt)
            try:
                check_record_image(record)
                _check_png(record.get("file_name"))
                sample = self.mapper(record)
            except _OF_THE_IMAGE as error:
                bad[_name(record)] = _reason(error)
            except Exception as error:
                raise RuntimeError(f"mapping of {_name(record)} failed: {error!r}") from error
            else:
                if sample is not None:
                    return {**sample, _KEY: bad} if bad else sample
        if not bad:
            raise RuntimeError(f"the mapper left out {_ATTEMPTS} images, the last: {_name(record)}")
        size = {key: record.get(key, 1) for key in ("height", "width")}
        return {**size, _KEY: bad, "image": None}

    def replacement(self, position: int, index: int, attempt: int) -> int:
        """Return the index of the image to map: ``index`` itself, then random ones.

        Args:
            position: position of the sample.
            index: index of its image.
            attempt: number of earlier attempts.
        """
        if attempt == 0:
            return index
        rng = np.random.default_rng([self.seed, position, attempt])
        if self.is_wide is None:
            return int(rng.integers(len(self)))
        return int(rng.choice(np.flatnonzero(self.is_wide == self.is_wide[index])))


class NamingMapper:
    """Mapper that names the image which another mapper cannot map, for evaluation.

    Very elongated images keep at least one pixel on each side when they are resized.

    Args:
        mapper: returns a model input.
    """

    def __init__(self, mapper: Callable[[dict[str, Any]], Any]) -> None:
        self.mapper = keep_pixels(mapper)

    def __call__(self, record: dict[str, Any]) -> Any:
        """Map a record.

        Raises:
            BadImageError: the image is damaged, or its size is not that of the annotations.
        """
        try:
            check_record_image(record)
            _check_png(record.get("file_name"))
            return self.mapper(record)
        except _OF_THE_IMAGE as error:
            name, reason = _name(record), _reason(error)
            raise BadImageError(f"an image cannot be used: {name}: {reason}") from error


def _name(record: dict[str, Any]) -> str:
    file = record.get("file_name", "an image without a file")
    return f"{file} (image id {record['image_id']})" if "image_id" in record else str(file)


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())
    kind = type(error).__name__
    return text if text and type(error) in (OSError, ValueError) else f"{kind}: {text}".rstrip(": ")


def _check_png(path: Any) -> None:
    """Refuse a damaged PNG: Detectron2's reader would return its missing pixels as black ones."""
    if not str(path).lower().endswith(".png") or "://" in str(path) or _has_whole_chunks(path):
        return
    with Image.open(path) as image:
        image.load()


def _has_whole_chunks(path: str | os.PathLike[str]) -> bool:
    with open(path, "rb") as file:
        if file.read(len(_PNG_SIGNATURE)) != _PNG_SIGNATURE:
            return False
        while len(head := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            content, code = file.read(length), file.read(4)
            if len(code) < 4 or zlib.crc32(kind + content) != int.from_bytes(code, "big"):
                return False
            if kind == b"IEND":
                return True
    return False


class BadImages:
    """Images of a training that could not be used, each counted once over workers and ranks.

    Attributes:
        limit: number of bad images that training replaces; one more stops it.
        found: reason by name of each bad image that all ranks know.
    """

    def __init__(self, limit: int = 0) -> None:
        self.limit = limit
        self.found: dict[str, str] = {}
        self._new: dict[str, str] = {}

    @property
    def num_new(self) -> int:
        """Number of bad images that other ranks do not know yet."""
        return len(self._new)

    def collect(self, batch: Iterable[dict[str, Any]]) -> None:
        """Take the names of bad images out of the samples of a batch.

        Raises:
            BadImageError: this rank knows more bad images than the limit, or there is no sample.
        """
        unusable = False
        for sample in batch:
            for name, reason in sample.pop(_KEY, {}).items():
                if name not in self.found and name not in self._new:
                    self._new[name] = reason
                    if self.limit:
                        logger.warning("Replaced a bad image: %s: %s", name, reason)
            unusable |= "image" in sample and sample["image"] is None
        if comm.get_world_size() == 1:
            self.exchange()
        self._check({**self.found, **self._new}, unusable)

    def exchange(self) -> None:
        """Share the new bad images with all ranks, which must all call this.

        Raises:
            BadImageError: all ranks together know more bad images than the limit.
        """
        of_ranks: Any = comm.all_gather(self._new)
        for new in of_ranks:
            self.found |= {name: why for name, why in new.items() if name not in self.found}
        self._new = {}
        self._check(self.found)

    def _check(self, found: dict[str, str], unusable: bool = False) -> None:
        if len(found) <= self.limit and not unusable:
            return
        if unusable:
            fault = f"{_ATTEMPTS} images in a row cannot be used"
        elif self.limit:
            fault = f"{len(found)} images cannot be used, train.max_bad_images is {self.limit}"
        else:
            fault = "an image cannot be used" if len(found) == 1 else "images cannot be used"
        last = [f"{name}: {reason}" for name, reason in found.items()][:_SHOWN]
        more = "" if len(found) <= _SHOWN else "; ..."
        hint = "" if self.limit or unusable else "; train.max_bad_images=N replaces up to N of them"
        raise BadImageError(f"{fault}: {'; '.join(last)}{more}{hint}")

    def state_dict(self) -> dict[str, str]:
        """Return the reasons by name."""
        return dict(self.found)

    def load_state_dict(self, state: dict[str, str]) -> None:
        """Continue with the bad images of a checkpoint."""
        self.found = {str(name): str(reason) for name, reason in state.items()}
