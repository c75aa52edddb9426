"""The order of samples: a permutation of each epoch, in constant memory for large data."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from t2i.data.sampling import LARGE, NumberedSamples, _keys, feistel, shuffled


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 16, 17, 1000, 4096, 4097])
def test_each_epoch_has_every_item_once(length):
    for epoch in range(3):
        keys = _keys(0, epoch, length)
        assert sorted(feistel(i, length, keys) for i in range(length)) == list(range(length))


def test_orders_are_random():
    """Of 2,000 epochs of 6 items, each item is at each place as often; of long ones, neighbours are unrelated."""
    counts = np.zeros((6, 6))
    for epoch in range(2000):
        for place in range(6):
            counts[place, feistel(place, 6, _keys(0, epoch, 6))] += 1
    assert ((counts - 2000 / 6) ** 2 / (2000 / 6)).sum() < 60  # chi-squared with 25 degrees of freedom: p = 1e-4
    order = np.array([feistel(i, 20_000, _keys(3, 1, 20_000)) for i in range(20_000)])
    assert abs(np.corrcoef(order[1:], order[:-1])[0, 1]) < 0.03 and abs(np.corrcoef(order, range(20_000))[0, 1]) < 0.03
    other = np.array([feistel(i, 20_000, _keys(3, 2, 20_000)) for i in range(20_000)])
    assert (order == other).sum() < 10


def test_smaller_data_are_in_numpys_order():
    order = np.random.default_rng((7, 2, 1000)).permutation(1000)
    assert [shuffled(i, 1000, 7, 2) for i in range(1000)] == order.tolist()


class Numbers:
    """10⁹ items without content."""

    def __len__(self) -> int:
        return 10**9

    def __getitem__(self, index: int) -> dict:
        return {"index": index}


def test_a_run_resumes_anywhere_in_a_billion_items_without_their_order_in_memory():
    tracemalloc.start()
    samples = NumberedSamples(Numbers(), lambda item, rng: item | {"random": rng.random()}, seed=1)
    found = [samples[n]["index"] for n in (0, 10**9 - 1, 10**9, 12_345_678_901)]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(set(found)) == 4 and max(found) < 10**9 and peak < 2**20
    assert found == [samples[n]["index"] for n in (0, 10**9 - 1, 10**9, 12_345_678_901)]
    assert LARGE < 10**7
