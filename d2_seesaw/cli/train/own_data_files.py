"""Files that ``train --data`` writes: a config takes its place only when it is accepted."""

import argparse
import os
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog

from d2_seesaw.cli import say
from d2_seesaw.cli.train.reading import read_config
from d2_seesaw.engine.launch import check_machine
from d2_seesaw.utils.files import atomic_write, write_text


def write_checked(args: argparse.Namespace, path: Path, text: str) -> None:
    """Write a config that the start of the training accepts; an earlier one gets another name.

    Raises:
        ValueError, OSError: see ``read_config`` and ``check_machine``; an earlier config is kept.
    """
    tried = path.with_name(f".new_{path.name}")
    registered = set(DatasetCatalog.list())
    try:
        write_text(tried, text)
        cfg = read_config(argparse.Namespace(**{**vars(args), "config_file": str(tried)}))
        if not args.choose_only:
            check_machine(cfg, args)
        _keep_earlier(path)
        os.replace(tried, path)
    finally:
        tried.unlink(missing_ok=True)
        for name in set(DatasetCatalog.list()) - registered:  # another try may have other files
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)


def _keep_earlier(path: Path) -> None:
    """Copy a config that exists, which its user may have edited, to the first free name.

    It stays in place until the new one replaces it, so that at no time there is none.
    """
    if path.exists():
        number = 1
        while (kept := path.with_name(f"{path.stem}_previous_{number}.py")).exists():
            number += 1
        with atomic_write(kept) as file:
            file.write(path.read_bytes())
        say(f"The earlier {path} is now {kept}")
