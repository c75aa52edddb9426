"""InceptionV3 as FID defines it: the network of 2015-12-05 with TensorFlow 1's resize.

Heusel et al. 2017, arXiv 1706.08500; Salimans et al. 2016, arXiv 1606.03498. The architecture and the weights file are
torch-fidelity's. FIDs with other weights or another resize are not comparable.

Shapes: N images · H × W pixels
"""

from __future__ import annotations

import hashlib
import io
import pickle
from pathlib import Path

import torch
from torch import Tensor, nn

from t2i.eval.features.base import INCEPTION_SHA256, Extractor

SIDE = 299
FEATURES, CLASSES = 2048, 1008
REMEDY = "pip install torch-fidelity"


class InceptionExtractor(Extractor):
    """Average-pooled features with 2,048 dimensions, and the logits for the Inception score.

    Args:
        weights: a file in torch-fidelity's format. Default: the official one, which is downloaded once into
            torch.hub's folder; any file with its SHA-256 counts as official, and its extractor is called "inception".

    `weights_sha256` is that of the file.

    Raises FileNotFoundError without the file, and ValueError without torch-fidelity or for other contents.
    """

    def __init__(self, weights: str | Path | None = None, device: str = "cpu"):
        architecture, self._resize = _torch_fidelity()
        path = _official() if weights is None else Path(weights)
        if not path.is_file():
            raise FileNotFoundError(f"there are no Inception weights in {path}; omit the path to download them")
        content = path.read_bytes()  # the same bytes are hashed, checked and loaded
        sha256 = hashlib.sha256(content).hexdigest()
        if weights is None and sha256 != INCEPTION_SHA256:
            raise ValueError(f"{path} lacks the SHA-256 of the official weights; delete it to download it again")
        _check(content, path)
        net = architecture("inception", [str(FEATURES)], feature_extractor_weights_path=io.BytesIO(content))
        trunk = nn.Sequential(*(part for name, part in net.named_children() if name != "fc"))  # in execution order
        self.model = trunk.eval().requires_grad_(False).to(device)
        self.classifier = net.fc.weight.detach()  # (1008, 2048)
        name = "inception" if sha256 == INCEPTION_SHA256 else f"inception:{path.name}"
        super().__init__(name, FEATURES, f"tf1-bilinear-{SIDE}", sha256, device)

    def prepare(self, images: Tensor) -> Tensor:
        return (self._resize(images.float(), size=(SIDE, SIDE), align_corners=False) - 128) / 128

    def forward(self, prepared: Tensor) -> Tensor:
        return self.model(prepared).flatten(1)

    def logits(self, features: Tensor) -> Tensor:
        """Features (N, 2048) -> logits (N, 1008) for the Inception score, which omits the bias."""
        return features @ self.classifier.T


def _torch_fidelity():
    """The architecture and the resize. Raises ValueError if torch-fidelity is not installed."""
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x
    except ImportError as error:
        raise ValueError(f"the Inception network needs torch-fidelity; install it: {REMEDY}") from error
    return FeatureExtractorInceptionV3, interpolate_bilinear_2d_like_tensorflow1x


def _official() -> Path:
    """The official weights in torch.hub's folder, downloaded if missing."""
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    path = Path(torch.hub.get_dir()) / "checkpoints" / URL_INCEPTION_V3.rsplit("/", 1)[1]
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(URL_INCEPTION_V3, str(path), hash_prefix=INCEPTION_SHA256)
        except (OSError, RuntimeError) as error:
            raise FileNotFoundError(
                f"the Inception weights cannot be downloaded ({error}); get {URL_INCEPTION_V3} and give its path: "
                "inception:/path/to/weights.pth"
            ) from error
    return path


def _check(content: bytes, path: Path) -> None:
    """Raise ValueError unless the file contains only tensors: torch-fidelity would unpickle anything."""
    try:
        state = torch.load(io.BytesIO(content), weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(f"{path} is not a safe file of weights; give torch-fidelity's") from error
    if not isinstance(state, dict) or getattr(state.get("fc.weight"), "shape", None) != (CLASSES, FEATURES):
        raise ValueError(f"{path} has no Inception weights in torch-fidelity's format; omit the path to download them")
