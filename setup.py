"""Package metadata. Imports nothing but setuptools: building needs neither torch nor a GPU."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "d2_seesaw/__init__.py").read_text())[1]
# Config files are programs that Detectron2 loads by path, so their folders have no __init__.py.
CONFIG_FOLDERS = {path.parent.relative_to(HERE) for path in HERE.glob("configs/**/*.py")}

setup(
    name="d2_seesaw",
    version=VERSION,
    description="Long-tailed recognition for Detectron2: Seesaw Loss and its LVIS recipe",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=[
        *find_packages(HERE, include=["d2_seesaw", "d2_seesaw.*"]),
        *sorted(".".join(("d2_seesaw", *folder.parts)) for folder in CONFIG_FOLDERS),
    ],
    package_dir={"d2_seesaw.configs": "configs"},
    package_data={"d2_seesaw": ["py.typed", "report/templates/*.j2"]},
    entry_points={"console_scripts": ["d2-seesaw = d2_seesaw.cli:main"]},
    python_requires=">=3.10",
    # No index has Detectron2 under its name; `python -m d2_seesaw.install_detectron2` installs it.
    # Its requirements are declared here too. setuptools < 81: its model_zoo imports pkg_resources.
    install_requires=[
        "cloudpickle",
        "fvcore",
        "hydra-core",
        "iopath",
        "jinja2",
        "lvis",
        "markupsafe",
        "matplotlib",
        "msgspec",
        "numpy",
        "omegaconf",
        "opencv-python",
        "packaging",
        "pillow",
        "pycocotools",
        "pyyaml",
        "safetensors",
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
            "hypothesis",
            "nbmake",
            "pre-commit",
            "pyright",
            "pytest",
            "pytest-xdist",
            "ruff",
        ],
        "demo": ["jupyterlab"],  # opens docs/first_steps.ipynb
        "export": ["onnx", "onnxruntime"],
        "docs": ["latex2mathml", "mkdocs-material", "mkdocstrings[python]"],
        "fast": ["numba>=0.61"],  # masks are encoded and compared by compiled functions
        "fiftyone": ["fiftyone>=1.0"],
        "mlflow": ["mlflow"],
        "segmentation": ["segmentation-models-pytorch>=0.5"],
        "supervision": ["supervision>=0.31"],
        "timm": ["timm>=1.0"],
        "wandb": ["wandb"],
    },
)
