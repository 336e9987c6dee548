"""The installed Detectron2 and where it comes from.

Imports the standard library only: set-up uses it before anything is installed.
"""

import importlib.metadata
import importlib.util
import json
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = "https://github.com/facebookresearch/detectron2.git"
COMMIT = "02b5c4e295e990042a714712c21dc79b731e8833"

NOT_INSTALLED = "Detectron2 is not installed; `python -m d2_seesaw.install_detectron2` installs it"

# The copy equals Detectron2 at COPY_COMMIT (April 2024) except for its version string, one line
# that Detectron2 itself changed later (list(...) inside random.sample in data/common.py), and a
# helper of its unit tests. The wheel also holds an extension module for CPython 3.10 without its
# sources, and a top-level package `tools`: neither is installed.
COPY_NAME, COPY_VERSION = "sal-detectron2", "0.7.2"
COPY_COMMIT = "a59f05630a8f205756064244bf5beb8661f96180"
COPY_SHA256 = "491af0c7f79bdb2d178e46f6cb16a97c4ac968d45c41ea3f6b6435d59bbee561"
COPY_LABEL = f"{COPY_VERSION}+python.{COPY_COMMIT[:7]}"

# Folders into which pip installs the packages of this environment.
SITE_PACKAGES = {Path(sysconfig.get_path(name)).resolve() for name in ("purelib", "platlib")}


@dataclass
class Installed:
    """The Detectron2 that a Python environment imports.

    Attributes:
        package: name of the distribution, ``""`` if the folder was not installed by pip.
        version: its version, ``""`` if unknown.
        origin: URL of the repository, checkout or wheel as recorded by pip, or ``""``.
        commit: commit of the repository as recorded by pip, or ``""``.
        location: folder of the package.
        compiled: the extension module ``_C`` exists.
    """

    package: str
    version: str
    origin: str
    commit: str
    location: str
    compiled: bool

    @property
    def is_copy(self) -> bool:
        """Return whether this is the copy on the index, without its compiled file."""
        return (self.package, self.version) == (COPY_NAME, COPY_LABEL)

    def comes_from(self, source: str) -> bool:
        """Return whether this installation comes from ``source``, as given by the user."""
        if source == "auto":
            return True
        if source == "index":
            return self.is_copy
        if source == "git":
            return self.commit == COMMIT
        path = Path(source)
        return path.exists() and self.origin in (path.absolute().as_uri(), path.resolve().as_uri())

    def __str__(self) -> str:
        if self.is_copy:
            source = f"the copy on the package index ({self.package} {COPY_VERSION})"
        elif self.commit:
            source = f"its repository at {self.commit[:7]}"
        else:
            source = self.origin or self.location
        kind = "compiled" if self.compiled else "Python only"
        return f"Detectron2 {self.version or '(unknown version)'} from {source}, {kind}"


def find_installed() -> Installed | None:
    """Return the Detectron2 that this Python would import, without importing it, or None.

    An unfinished installation counts as none.
    """
    spec = importlib.util.find_spec("detectron2")
    if spec is None or not spec.submodule_search_locations or spec.origin is None:
        return None
    folder = Path(spec.origin).parent.resolve()
    compiled = any(folder.glob("_C.*"))
    for name in ("detectron2", COPY_NAME):
        distribution = finished_distribution(name)
        if distribution is None:
            continue
        source = json.loads(distribution.read_text("direct_url.json") or "{}")
        here = Path(str(distribution.locate_file("detectron2"))).resolve() == folder
        # An editable installation keeps its metadata away from its package.
        if here or source.get("dir_info", {}).get("editable"):
            # The copy was installed from a temporary file, which is not its origin.
            origin = "" if name == COPY_NAME else source.get("url", "")
            commit = source.get("vcs_info", {}).get("commit_id", "")
            version = distribution.version
            return Installed(name, version, origin, commit, str(folder), compiled)
    if folder.parent in SITE_PACKAGES:
        return None
    return Installed("", "", "", "", str(folder), compiled)


def finished_distribution(name: str) -> importlib.metadata.Distribution | None:
    """Return the installed distribution, or None if it is missing or unfinished."""
    try:
        distribution = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return None
    info = Path(str(distribution.locate_file("")))
    return None if any(unfinished(info, only=name)) else distribution


def unfinished(site_packages: Path, only: str = "") -> Iterator[Path]:
    """Yield the metadata folders of packages whose installation was interrupted.

    pip writes ``RECORD``, the list of a package's files, last. While the folder exists, pip treats
    the package as installed; without it, pip installs the package again.

    Args:
        site_packages: folder to search.
        only: name of a single package; all packages if empty.
    """
    for info in site_packages.glob("*.dist-info"):
        name = info.name.split("-")[0].replace("_", "-")
        if not (info / "RECORD").exists() and only in ("", name):
            yield info
