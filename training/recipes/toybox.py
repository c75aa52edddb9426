"""Data and validation prompts of the recipes that are trained on toybox, and prompts of those on toybox-v1."""

from t2i.training.config import DataConfig

TOYBOX = DataConfig("toybox", image_size=128)

TOYBOX_PROMPTS = (
    "an armchair in the shape of an avocado",
    "a red cat on top of a blue car",
    "three green apples",
    "a zebra teapot",
    "a horse riding an astronaut",
    'a street sign that reads "Latent Diffusion"',
    "an animal half mouse half octopus",
    "a watercolor painting of a pink penguin",
)

TOYBOX_V1_PROMPTS = (
    "an avocado armchair",
    "a red cat on top of a blue car",
    "three green apples",
    "a zebra teapot",
    "a horse made of wood in the snow",
    "a starry night backpack",
    "a pink octopus to the left of a brick house",
    "a polka dot robot",
)
