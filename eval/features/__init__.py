"""Feature extractors with a shared interface: uint8 images in, float32 features out, with the weights' hash."""

from __future__ import annotations

import re

from t2i.checks import UsageError, check_choice
from t2i.eval.features.base import Extractor, Features, area_resize, as_uint8, measure_name
from t2i.eval.features.inception import InceptionExtractor
from t2i.eval.features.pretrained import ClipExtractor, Dinov2Extractor, OpenClipExtractor
from t2i.eval.features.small import PixelExtractor, RandomExtractor, ToyboxExtractor

__all__ = ["EXTRACTORS", "Extractor", "Features", "area_resize", "as_uint8", "measure_name", "open_extractor"]

_ALONE: dict[str, type[Extractor]] = {"pixels": PixelExtractor, "random": RandomExtractor}
_WITH_SOURCE: dict[str, type[Extractor]] = {
    "toybox-v1": ToyboxExtractor,
    "inception": InceptionExtractor,
    "clip": ClipExtractor,
    "open_clip": OpenClipExtractor,
    "dinov2": Dinov2Extractor,
}
EXTRACTORS = (*_ALONE, *_WITH_SOURCE)
_NEEDS_SOURCE = {"clip": "NAME_OR_FOLDER", "open_clip": "ARCH/PRETRAINED", "dinov2": "NAME_OR_FOLDER"}
_HASH = re.compile(r"(.+)@([0-9a-fA-F]{6,64})")


def extractor_forms() -> dict[str, str]:
    """How each extractor is named, with its argument (in brackets if optional), and what its class says of it first."""
    forms = {}
    for name, cls in (_ALONE | _WITH_SOURCE).items():
        argument = f":{_NEEDS_SOURCE[name]}" if name in _NEEDS_SOURCE else "[:FILE_OR_FOLDER]"
        form = name if name in _ALONE else name + argument
        forms[form] = " ".join((cls.__doc__ or "").split("\n\n")[0].split())
    return forms


def open_extractor(name: str, device: str = "cpu") -> Extractor:
    """The extractor called `name`, with its network in eval mode.

    Args:
        name: "pixels", "random", "toybox-v1", "toybox-v1:FOLDER", "inception", "inception:/path/to/weights.pth",
            "clip:NAME_OR_FOLDER", "open_clip:ARCH/PRETRAINED", "open_clip:ARCH//path/to/file", "dinov2:NAME_OR_FOLDER".
            "@" and the first digits (at least six) of the weights' SHA-256 may follow.
        device: device of the network.

    Raises UsageError (a ValueError) for an unknown name, naming the nearest; ValueError or FileNotFoundError if the
    weights are missing, belong to a different model, or do not have the SHA-256 in `name`.
    """
    match = _HASH.fullmatch(name)
    plain, expected = match.groups() if match else (name, "")
    kind, _, source = plain.partition(":")
    check_choice("extractor", kind, EXTRACTORS)
    if kind in _ALONE:
        if source:
            raise UsageError(f"the extractor {kind} takes no argument: {kind}, not {plain}")
        extractor = _ALONE[kind](device=device)
    elif not source and kind in _NEEDS_SOURCE:
        raise UsageError(f"the extractor {kind} needs a model: {kind}:{_NEEDS_SOURCE[kind]}")
    else:
        extractor = _WITH_SOURCE[kind](source or None, device=device)
    if not extractor.weights_sha256.startswith(expected.lower()):
        raise ValueError(
            f"the weights of {plain} have the SHA-256 {extractor.weights_sha256}, not {expected}…; "
            "get the right weights, or omit the hash"
        )
    return extractor
