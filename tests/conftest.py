"""Tiny real components shared by the tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # one of several workers: programs started by tests share the cores too
    os.environ["OMP_NUM_THREADS"] = "1"

import emulated_device
import pytest
import torch
from accelerate.state import AcceleratorState

from t2i.data.toybox_v1 import Toybox
from t2i.pipelines import DallePipeline, MusePipeline
from t2i.prior.masked import MaskedTransformer
from t2i.prior.transformer import TextImageTransformer
from t2i.text.bpe import train_bpe
from t2i.tokenizers.vqvae import VQVAE

os.environ["TOKENIZERS_PARALLELISM"] = "false"
torch.set_num_threads(1)  # the models are so small that a second thread only waits
ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def vqvae() -> VQVAE:
    sizes = {"channels": (16, 16), "encoder_blocks": (0, 1), "decoder_blocks": (1, 1)}
    return VQVAE(image_size=16, codebook_size=32, code_width=8, **sizes).eval()


@pytest.fixture(scope="session")
def text_tokenizer():
    return train_bpe(Toybox(num=200).captions(200), 512)


@pytest.fixture
def prior(text_tokenizer) -> TextImageTransformer:
    sizes = {"text_length": 8, "grid_size": 4, "width": 32, "layers": 2, "heads": 4}
    prior = TextImageTransformer(len(text_tokenizer), 32, **sizes).eval()
    for parameter in prior.parameters():  # away from the initialisation, at which all tokens are equally likely
        torch.nn.init.normal_(parameter, std=0.3)
    return prior


@pytest.fixture
def pipe(text_tokenizer, prior, vqvae) -> DallePipeline:
    pipe = DallePipeline(text_tokenizer, prior, vqvae)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def masked_prior(text_tokenizer) -> MaskedTransformer:
    sizes = {"text_length": 8, "grid_size": 4, "width": 32, "layers": 2, "heads": 4}
    prior = MaskedTransformer(len(text_tokenizer), 32, **sizes).eval()
    for parameter in prior.parameters():  # away from the initialisation, at which all codes are equally likely
        torch.nn.init.normal_(parameter, std=0.3)
    return prior


@pytest.fixture
def muse(text_tokenizer, masked_prior, vqvae) -> MusePipeline:
    pipe = MusePipeline(text_tokenizer, masked_prior, vqvae)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(
    params=[pytest.param("emulated", marks=pytest.mark.emulated), pytest.param("cuda", marks=pytest.mark.cuda)]
)
def device(request, monkeypatch) -> Iterator[str]:
    """A device other than the CPU, for models and the training loop: CUDA, or one that is emulated everywhere."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    if request.param == "emulated" and not emulated_device.available():
        pytest.skip("this version of torch cannot emulate a device")
    monkeypatch.setenv("ACCELERATE_TORCH_DEVICE", request.param)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # results are compared with the CPU's
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        with emulated_device.emulated() if request.param == "emulated" else nullcontext():
            yield request.param
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def shared_data() -> Path:
    """Real images in a folder next to the project, if there are any."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"the real data are not here: no folder {folder.name} beside the project")
    return folder
