"""Cost of exact resume: microseconds that it adds to a training step of the quickstart.

    python benchmarks/exact_resume.py

The added parts are timed alone: seeding the model, counting the batch, drawing the order, and
seeding the mapper and restoring the generators for each image, as without loading processes. Their
sum is compared with the median step of configs/quickstart/seesaw.py, data loading excluded, on
generated images. The aim is at most 0.5 %.
"""

import argparse
import logging
import os
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from detectron2.engine import hooks
from timing import Row, Step, add_device_options, device_name, measure, quartiles, write_json

AIM = 0.005


def parts(batch_size: int) -> dict[str, Step]:
    """Return the added work of one step as functions."""
    from d2_seesaw.data import RandomSampling
    from d2_seesaw.data.batch_order import BatchOrder, Section
    from d2_seesaw.utils.random_state import IMAGE, STEP, generators_kept, seed_generators

    dataset = [{}] * 1000
    section = Section(1, batch_size)
    is_wide = torch.rand(1000).numpy() < 0.5
    sampling = RandomSampling()
    order = BatchOrder(lambda seed: iter(sampling.sampler(dataset, seed)), 1, section, 0, is_wide)
    batches = iter(order)

    def seed_images() -> None:
        for position in range(batch_size):
            with generators_kept():
                seed_generators(1, IMAGE, position, 0)

    return {
        "seeding of the model": lambda: seed_generators(1, STEP, 0, 100, 0),
        "count of the batch": order.count_batch,
        "order of the data": lambda: next(batches),
        f"seeding of {batch_size} images": seed_images,
    }


def step_milliseconds(steps: int, device: str) -> tuple[float, int]:
    """Train the quickstart; return the median step without data loading, and the batch size."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DETECTRON2_DATASETS"] = folder  # read when the datasets are registered
        from d2_seesaw.cli.train.training import build_trainer
        from d2_seesaw.engine import load_config
        from d2_seesaw.synthetic.instances import LongTailSpec, generate_longtail_dataset
        from d2_seesaw.synthetic.profile import DEMO_PROFILE

        root = Path(folder) / "quickstart"
        profile = replace(DEMO_PROFILE, full_scale_images=2000)
        spec = LongTailSpec(num_train_images=200, num_val_images=20, profile=profile)
        generate_longtail_dataset(root, spec, progress=False)
        cfg = load_config(
            "quickstart/seesaw",
            [
                f"train.output_dir={folder}",
                f"train.max_iter={steps}",
                f"train.device={device}",
                "dataloader.train.num_workers=0",
                "dataloader.evaluator.report=null",
            ],
        )
        trainer, _ = build_trainer(cfg, resume=False)
        trainer._hooks = [h for h in trainer._hooks if isinstance(h, hooks.IterationTimer)]
        trainer.train(0, steps)
    times, loading = (trainer.storage.history(n).values() for n in ("time", "data_time"))
    waits = {iteration: seconds for seconds, iteration in loading}
    step = 1e3 * statistics.median(t - waits[i] for t, i in times)
    return step, cfg.dataloader.train.total_batch_size


def main() -> None:
    """Time step and added parts and print their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_device_options(parser)
    parser.add_argument("--steps", type=int, default=40, help="steps of the quickstart")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.INFO)
    step, batch_size = step_milliseconds(options.steps, options.device)
    added = measure(parts(batch_size), options.rounds, "cpu", budget=20.0)
    rows: list[Row] = [
        {"what": name, "unit": "us", **quartiles([1e3 * t for t in times])}
        for name, times in added.items()
    ]
    total = sum(row["median"] for row in rows)
    rows.append({"what": "all of these", "unit": "us", "median": total})
    rows.append({"what": "step of the quickstart", "unit": "ms", "median": step})
    print(f"{device_name(options.device)}, torch {torch.__version__}, one thread")
    for row in rows:
        print(f"{row['what']:24} {row['median']:9.1f} {row['unit']}")
    share = total / (1e3 * step)
    print(f"share of the step {100 * share:.3f} % (aim: at most {100 * AIM:g} %)")
    rows.append({"what": "share of the step", "unit": "", "median": share})
    write_json(options.json, "exact_resume", options.device, rows)


if __name__ == "__main__":
    main()
