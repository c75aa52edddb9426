"""Published likelihoods on MNIST, for comparison."""

from __future__ import annotations

from collections.abc import Sequence

from t2i.data.labelled import DIGITS

# By number of pixel levels. 2: nats on images binarised once (van den Oord et al. 2016, arXiv 1601.06759: PixelCNN
# without gates, and seven-layer diagonal BiLSTM); 256: bits/dim (as tabulated in Grathwohl et al. 2019, arXiv
# 1810.01367).
FIGURES = {
    2: {"pixelcnn": 81.3, "gated-pixelcnn": 81.3, "pixelrnn": 79.2},
    256: {"realnvp": 1.06, "glow": 1.05},
}
UNITS = {2: "nats", 256: "bits/dim"}
TRAINED_ON = 60_000  # training images; 10,000 test images


def published(classes: Sequence[str], shape: Sequence[int], levels: int) -> dict[str, float]:
    """Published values per family on this data, in UNITS[levels]; empty unless the data is MNIST.

    Args:
        classes: names of the classes; shape: (C, S, S) of the images; levels: number of pixel levels.
    """
    is_mnist = tuple(classes) == DIGITS and tuple(shape) == (1, 28, 28)
    return FIGURES.get(levels, {}) if is_mnist else {}
