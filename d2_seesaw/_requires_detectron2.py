"""Check that Detectron2 is installed. Subpackages that need it import this module first.

Raises:
    ModuleNotFoundError: Detectron2 is not installed. The message is one line that says how to
        install it.
"""

import importlib.util

from d2_seesaw.detectron2_origin import NOT_INSTALLED

if importlib.util.find_spec("detectron2") is None:
    raise ModuleNotFoundError(NOT_INSTALLED, name="detectron2")
