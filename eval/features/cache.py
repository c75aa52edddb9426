"""On-disk feature cache, keyed by image, extractor and preprocessing.

Unlike `t2i.disk_cache`, whose caches are computed as a whole from one key, it grows image by image, so that changed,
added and interrupted sets reuse what is there.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from safetensors.torch import load, save
from torch import Tensor

from t2i.eval.features.base import Extractor
from t2i.files import write_whole
from t2i.notes import note


class FeatureCache:
    """Files `folder/EXTRACTOR/HASH.safetensors` with `values`, float32 (N, D), and `images`, their SHA-256 (N, 32).

    EXTRACTOR contains a hash of the output of `Extractor.describe`, so that other weights or preprocessing use another
    folder. HASH is that of the file's contents: a damaged file is detected, removed, and its features are recomputed.
    """

    def __init__(self, folder: str | Path, extractor: Extractor):
        about = json.dumps(extractor.describe(), sort_keys=True).encode()
        self.folder = Path(folder) / f"{extractor.name.partition(':')[0]}-{_digest(about)[:16]}"
        self._rows: dict[str, Tensor] = {}
        for path in sorted(self.folder.glob("*.safetensors")):
            content = path.read_bytes()
            if path.stem != _digest(content):
                path.unlink(missing_ok=True)
                note(f"the cached features in {path} are damaged and will be recomputed")
                continue
            stored = load(content)
            shas = (row.tobytes().hex() for row in stored["images"].numpy())
            self._rows |= zip(shas, stored["values"], strict=True)

    def get(self, image_sha256: str) -> Tensor | None:
        """float32 (D,), or None for an image that is not in the cache."""
        return self._rows.get(image_sha256)

    def put(self, images_sha256: list[str], values: Tensor) -> None:
        """Write the features (N, D) of N images to one file, atomically."""
        shas = torch.tensor([list(bytes.fromhex(sha)) for sha in images_sha256], dtype=torch.uint8)
        content = save({"values": values.float().contiguous(), "images": shas})
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(self.folder / f"{_digest(content)}.safetensors", content)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]
