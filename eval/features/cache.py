"""Features that were computed before, found again by picture, network and preprocessing.

Shapes: N pictures of one file · D dimensions
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from t2i.eval.features.base import Extractor
from t2i.notes import note

VERSION = 2  # of the files: 2 has a checksum for each row


class FeatureCache:
    """Files `folder/EXTRACTOR/*.safetensors` with `values` (N, D), `images` (N, 32), the bytes of the SHA-256, and
    `checksums` (N, 8), each of a row's image and values.

    EXTRACTOR has a hash of everything that `Extractor.describe` says, so that other weights or another preprocessing
    look elsewhere; a changed picture has another SHA-256. Files are written once and only ever read afterwards. A
    damaged one is removed, which is said on standard error, and its features are computed anew.
    """

    def __init__(self, folder: str | Path, extractor: Extractor):
        about = json.dumps(extractor.describe(), sort_keys=True)
        key = hashlib.sha256(f"{VERSION} {about}".encode()).hexdigest()[:16]
        self.folder = Path(folder) / f"{extractor.name.partition(':')[0]}-{key}"
        self.about, self.dim = about, extractor.dim
        self._where: dict[str, tuple] = {}  # SHA-256 of a picture: (open file, row)
        for path in sorted(self.folder.glob("*.safetensors")):
            self._open(path)

    def get(self, image_sha256: str) -> Tensor | None:
        """float32 (D,), or None where the picture has not been seen."""
        if image_sha256 not in self._where:
            return None
        file, row = self._where[image_sha256]
        return file.get_slice("values")[row : row + 1][0]

    def put(self, images_sha256: list[str], values: Tensor) -> None:
        """Write the features (N, D) of N pictures as one file, whole or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        values = values.float().contiguous()
        tensors = {
            "values": values,
            "images": _bytes(bytes.fromhex(sha) for sha in images_sha256),
            "checksums": _bytes(_checksum(sha, row) for sha, row in zip(images_sha256, values, strict=True)),
        }
        path = self.folder / f"{hashlib.sha256(''.join(images_sha256).encode()).hexdigest()[:32]}.safetensors"
        part = path.with_name(f".{path.name}.{os.getpid()}.part")  # two processes may have the same pictures
        save_file(tensors, part, metadata={"extractor": self.about})
        part.replace(path)

    def _open(self, path: Path) -> None:
        try:
            file = safe_open(path, framework="pt")
            values, shas, sums = (file.get_tensor(name) for name in ("values", "images", "checksums"))
            if values.dtype != torch.float32 or values.shape != (len(shas), self.dim):
                raise ValueError(f"values are {values.dtype} {tuple(values.shape)}")
            seen = [sha.tobytes().hex() for sha in shas.numpy()]
            if _bytes(map(_checksum, seen, values)).tolist() != sums.tolist():
                raise ValueError("a checksum differs")
        except (SafetensorError, OSError, ValueError, TypeError) as error:
            with suppress(OSError):  # another process may have done so
                path.unlink()
            note(f"the cached features in {path} are damaged ({error}) and are computed anew")
            return
        self._where |= {sha: (file, row) for row, sha in enumerate(seen)}


def _checksum(image_sha256: str, values: Tensor) -> bytes:
    content = bytes.fromhex(image_sha256) + values.numpy().tobytes()
    return hashlib.blake2b(content, digest_size=8).digest()


def _bytes(rows: Iterable[bytes]) -> Tensor:
    """Rows of the same length -> uint8 (N, length)"""
    return torch.tensor([list(row) for row in rows], dtype=torch.uint8)
