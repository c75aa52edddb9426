"""Features that were computed before, found again by picture, network and preprocessing.

Shapes: N pictures of one file · D dimensions
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from t2i.eval.features.base import Extractor


class FeatureCache:
    """Files `folder/EXTRACTOR/*.safetensors` with `values` (N, D) and `images` (N, 32), the bytes of the SHA-256.

    EXTRACTOR has a hash of everything that `Extractor.describe` says, so that other weights or another preprocessing
    look elsewhere; a changed picture has another SHA-256. Files are written once and only ever read afterwards.

    Raises ValueError for a file that cannot be read.
    """

    def __init__(self, folder: str | Path, extractor: Extractor):
        about = json.dumps(extractor.describe(), sort_keys=True)
        key = hashlib.sha256(about.encode()).hexdigest()[:16]
        self.folder = Path(folder) / f"{extractor.name.partition(':')[0]}-{key}"
        self.about = about
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
        rows = torch.tensor([list(bytes.fromhex(sha)) for sha in images_sha256], dtype=torch.uint8)
        path = self.folder / f"{hashlib.sha256(''.join(images_sha256).encode()).hexdigest()[:32]}.safetensors"
        part = path.with_name(f".{path.name}.{os.getpid()}.part")  # two processes may have the same pictures
        save_file({"values": values.contiguous(), "images": rows}, part, metadata={"extractor": self.about})
        part.replace(path)

    def _open(self, path: Path) -> None:
        try:
            file = safe_open(path, framework="pt")
            shas = file.get_tensor("images")
        except (SafetensorError, OSError) as error:
            raise ValueError(f"the cached features in {path} cannot be read; delete that file") from error
        for row, sha in enumerate(shas.numpy()):
            self._where[sha.tobytes().hex()] = (file, row)
