"""Choice of a config for own data: measurements, choices with their reasons, and the config file.

The command is ``d2-seesaw train --data``.
"""

from d2_seesaw.own_data.choices import choose
from d2_seesaw.own_data.config_file import OwnData, choices_text, config_text
from d2_seesaw.own_data.measure import DatasetMeasures, measure
from d2_seesaw.own_data.recipes import Choice, Machine, choose_base, recipe_of

__all__ = [
    "Choice",
    "DatasetMeasures",
    "Machine",
    "OwnData",
    "choices_text",
    "choose",
    "choose_base",
    "config_text",
    "measure",
    "recipe_of",
]
