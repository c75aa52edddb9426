"""Validation prompts of the recipes trained on toybox."""

TOYBOX_PROMPTS = (
    "an avocado armchair",
    "a red cat on top of a blue car",
    "three green apples",
    "a zebra teapot",
    "a horse made of wood in the snow",
    "a starry night backpack",
    "a pink octopus to the left of a brick house",
    "a polka dot robot",
)
