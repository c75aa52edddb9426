"""Data errors reach the user as one sentence, also from data workers."""

from __future__ import annotations

import os
import signal
import time

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from t2i.data import open_source
from t2i.data.loading import LoadingError, load_batches


class Raising(Dataset):
    """Items 0 to 7; number 5 raises, or kills its process."""

    def __init__(self, error: Exception | None):
        self.error = error

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict:
        if index == 5:
            if self.error is None:
                os.kill(os.getpid(), signal.SIGKILL)
            raise self.error
        return {"x": torch.tensor(index)}


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("x.png is damaged"), "x.png is damaged"),
        (OSError(5, "Input/output error", "x.png"), "[Errno 5] Input/output error: 'x.png'"),
        (MemoryError(), "not enough memory for item 5 of the data"),
    ],
)
def test_what_an_item_raises_is_one_sentence_after_the_batches_before(workers, error, said):
    batches = load_batches(Raising(error), batch_size=2, num_workers=workers)
    assert [next(batches)["x"].tolist() for _ in range(2)] == [[0, 1], [2, 3]]
    with pytest.raises(LoadingError) as caught:
        next(batches)
    assert str(caught.value) == said
    assert "Traceback" in caught.value.__notes__[0]  # available for debugging


def test_faults_of_the_code_keep_their_traceback():
    with pytest.raises(KeyError, match="Traceback"):
        list(load_batches(Raising(KeyError("k")), num_workers=1))


def test_a_worker_that_is_killed_is_said():
    with pytest.raises(LoadingError, match="a data worker was killed, perhaps because memory ran out; give fewer"):
        list(load_batches(Raising(None), batch_size=2, num_workers=1))


def test_batches_are_a_data_loaders(tmp_path):
    for kind in ("cat", "dog"):
        (tmp_path / kind).mkdir()
        for i in range(3):
            Image.new("RGB", (8, 8), (40 * i, 0, 0)).save(tmp_path / kind / f"{i}.png")
    source = open_source(str(tmp_path), 4)
    for ours, theirs in zip(load_batches(source, batch_size=2), DataLoader(source, batch_size=2), strict=True):
        assert torch.equal(ours["image"], theirs["image"]) and ours["text"] == theirs["text"]
    (tmp_path / "dog" / "1.png").write_bytes(b"")
    with pytest.raises(LoadingError) as caught:
        list(load_batches(source, batch_size=2, num_workers=1))
    assert str(caught.value) == f"{tmp_path}/dog/1.png is empty; fetch it again or remove it"


class Slow(Dataset):
    """Waits in `wait_for_the_disk` before it gives its last item."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> int:
        if index == 1:
            wait_for_the_disk()
        return index


def wait_for_the_disk() -> None:
    time.sleep(1.5)


@pytest.mark.parametrize("workers", [0, 1])
def test_data_that_give_nothing_for_long_show_where_they_are(workers, capfd):
    assert [b.item() for b in load_batches(Slow(), patience=0.3, batch_size=1, num_workers=workers)] == [0, 1]
    said = capfd.readouterr().err
    assert "the data gave no batch for 0.3 s" in said
    assert "wait_for_the_disk" in said
    assert list(load_batches(Slow(), patience=30, batch_size=2, num_workers=workers))
    assert capfd.readouterr().err == ""
