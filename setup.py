"""Package metadata. Imports nothing but setuptools: building needs no torch and no GPU."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "d2_seesaw/__init__.py").read_text())[1]

setup(
    name="d2_seesaw",
    version=VERSION,
    description="Long-tailed recognition for Detectron2: Seesaw Loss and its LVIS recipe",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["d2_seesaw", "d2_seesaw.*"]),
    python_requires=">=3.10",
    # Detectron2 is on no index under its name: `python -m d2_seesaw.install_detectron2` brings it.
    # What it needs is declared here too. setuptools < 81: its model_zoo imports pkg_resources.
    install_requires=[
        "cloudpickle",
        "fvcore",
        "hydra-core",
        "iopath",
        "lvis",
        "matplotlib",
        "numpy",
        "omegaconf",
        "opencv-python",
        "packaging",
        "pillow",
        "pycocotools",
        "pyyaml",
        "setuptools<81",
        "shapely",  # Detectron2 crops polygons with it, but does not require it
        "tabulate",
        "tensorboard",
        "termcolor",
        "torch>=2.6",
        "torchvision",
        "tqdm",
        "wheel",  # d2_seesaw.install_detectron2 repacks a wheel with it
        "yacs",
    ],
    extras_require={
        "dev": [
            "codespell",
            "nbmake",
            "pre-commit",
            "pyright",
            "pytest",
            "pytest-xdist",
            "ruff",
        ],
        "docs": ["latex2mathml", "mkdocs-material", "mkdocstrings[python]"],
        "mlflow": ["mlflow"],
        "timm": ["timm>=1.0"],
        "wandb": ["wandb"],
    },
)
