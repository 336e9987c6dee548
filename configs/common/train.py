"""Options of train_net.py, for the recipe of the published models: 24 epochs on 8 GPUs."""

from d2_seesaw.engine import train_options

train = train_options(epochs=24)
