"""Statistics of reference images as a file with metadata, which is checked against the images being scored.

An npz without pickles: `mean` (D,) and `cov` (D, D) in float64, optionally `features` (N, D) in float32, which KID,
precision and recall need, and `metadata`, a JSON string.

Shapes: N images · D dimensions
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import t2i
from t2i.eval.features.base import Extractor, Features
from t2i.eval.metrics import Gaussian, Moments
from t2i.files import write_whole

ARRAYS = ("mean", "cov", "features")
REMEDY = "create it again with `t2i report statistics`"


@dataclass(frozen=True, eq=False)
class Reference:
    """The contents of a statistics file.

    Attributes:
        gaussian: mean and covariance.
        features: float32 (N, D), or None if only the moments were kept.
        extractor: description of the feature extractor: name, dim, preprocess_id, weights_sha256.
        count: N.
        source: description of the images.
        sha256: of the arrays.
        skipped: unreadable images, "name: why".
        mismatches: accepted mismatches, one sentence each.
    """

    gaussian: Gaussian = field(repr=False)
    features: Tensor | None = field(repr=False)
    extractor: dict
    count: int
    source: str
    sha256: str
    skipped: tuple[str, ...] = ()
    mismatches: tuple[str, ...] = ()


def save_reference(path: str | Path, features: Features, source: str, keep_features: bool = False) -> None:
    """Write the statistics of features atomically.

    Args:
        path: ends in .npz.
        source: description of the images: "COCO 2014 validation, captions of 30,000".
        keep_features: also write the features, float32.

    Raises ValueError for another ending, or fewer than two images.
    """
    path = Path(path)
    if path.suffix != ".npz":
        raise ValueError(f"the file name of statistics must end in .npz: {path}")
    gaussian = Moments.of(features.values).gaussian()
    arrays = {"mean": gaussian.mean.cpu().numpy(), "cov": gaussian.cov.cpu().numpy()}
    if keep_features:
        arrays["features"] = features.values.numpy()
    metadata = {
        "extractor": features.extractor,
        "count": len(features),
        "source": source,
        "version": t2i.__version__,
        "skipped": features.skipped,
        "sha256": _digest(arrays),
    }
    np.savez(file := io.BytesIO(), metadata=np.array(json.dumps(metadata)), **arrays)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, file.getvalue())


def load_reference(path: str | Path, extractor: Extractor | dict, allow_mismatch: bool = False) -> Reference:
    """Read statistics and compare their extractor with that of what is being scored.

    Args:
        extractor: the extractor of the features to compare with, or its description.
        allow_mismatch: accept mismatches and list them in `mismatches`, for the report; a different number of
            dimensions is never accepted.

    Raises FileNotFoundError; and ValueError for pickles, files of other programs, damaged files, and a mismatch.
    """
    reference = _reference(*_read(Path(path)), Path(path))
    expected = extractor.describe() if isinstance(extractor, Extractor) else extractor
    stored = reference.extractor
    if stored["dim"] != expected["dim"]:
        raise ValueError(f"{path} has {stored['dim']} dimensions, {expected['name']} has {expected['dim']}; {REMEDY}")
    keys = [key for key in ("name", "preprocess_id", "weights_sha256") if stored[key] != expected[key]]
    mismatches = tuple(f"it was computed with {key} {stored[key]}, not {expected[key]}" for key in keys)
    if mismatches and not allow_mismatch:
        raise ValueError(f"{path} does not match: {'; '.join(mismatches)}; {REMEDY}, or give --allow-mismatch")
    return replace(reference, mismatches=mismatches)


def _read(path: Path) -> tuple[dict[str, np.ndarray], dict]:
    """The arrays and the metadata; every defect of a file raises with a one-sentence message."""
    if not path.is_file():
        raise FileNotFoundError(f"there are no statistics in {path}; {REMEDY}")
    try:
        if not zipfile.is_zipfile(path):
            raise ValueError("not a zip file")
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        if "allow_pickle" in str(error):
            raise ValueError(f"{path} contains pickled objects, which could run code; {REMEDY}") from None
        raise ValueError(f"{path} is damaged, or not an .npz of statistics; {REMEDY}") from error
    try:
        metadata = json.loads(str(arrays.pop("metadata")))
        metadata["sha256"]
    except (KeyError, TypeError, json.JSONDecodeError):
        raise ValueError(f"{path} has no metadata that names its extractor; {REMEDY}") from None
    return {name: arrays[name] for name in ARRAYS if name in arrays}, metadata


def _reference(arrays: dict[str, np.ndarray], metadata: dict, path: Path) -> Reference:
    if metadata["sha256"] != _digest(arrays):
        raise ValueError(f"the arrays of {path} do not match the hash in its metadata; {REMEDY}")
    features = arrays.get("features")
    return Reference(
        gaussian=Gaussian(torch.from_numpy(arrays["mean"]), torch.from_numpy(arrays["cov"])),
        features=None if features is None else torch.from_numpy(features),
        extractor=metadata["extractor"],
        count=metadata["count"],
        source=metadata["source"],
        sha256=metadata["sha256"],
        skipped=tuple(metadata.get("skipped", ())),  # files of version 0.1.0 have no such entry
    )


def _digest(arrays: dict[str, np.ndarray]) -> str:
    """SHA-256 of names, dtypes, shapes and bytes."""
    digest = hashlib.sha256()
    for name in ARRAYS:
        if name in arrays:
            array = np.ascontiguousarray(arrays[name])
            digest.update(f"{name} {array.dtype.str} {array.shape} ".encode() + array.tobytes())
    return digest.hexdigest()
