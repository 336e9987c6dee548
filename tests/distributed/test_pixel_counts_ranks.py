import cv2
import numpy as np
import pytest
import torch.distributed as dist

from d2_seesaw.data import class_pixel_counts
from d2_seesaw.data.semantic import pixel_counts
from tests.support.ranks import run_on_ranks

C = 3


def counts_and_reads(dataset, cache):
    read_labels, reads = pixel_counts.read_labels, []

    def recorded(record, *args, **options):
        reads.append(record["sem_seg_file_name"])
        return read_labels(record, *args, **options)

    pixel_counts.read_labels = recorded
    return dist.get_rank(), class_pixel_counts(dataset, C, cache_folder=cache), len(reads)


@pytest.mark.dist
def test_the_main_rank_counts_and_the_other_reads_the_cache(tmp_path):
    rng = np.random.default_rng(0)
    maps = [rng.integers(0, C, (9, 8)).astype(np.uint8) for _ in range(10)]
    dataset = [{"sem_seg_file_name": str(tmp_path / f"{i}.png")} for i in range(10)]
    for record, labels in zip(dataset, maps, strict=True):
        cv2.imwrite(record["sem_seg_file_name"], labels)
    expected = [[np.sum(labels == c) for c in range(C)] for labels in maps]
    results = run_on_ranks(counts_and_reads, dataset, tmp_path / "cache", world_size=2)
    for rank, counts, reads in results:
        np.testing.assert_array_equal(counts, expected)
        assert reads == (len(dataset) if rank == 0 else 0)
