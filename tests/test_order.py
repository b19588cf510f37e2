"""The contract of the order, as properties: every statement of its docstring."""

from __future__ import annotations

import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitmodel.data.order import Order, hash_uint64, permutation


@st.composite
def orders(draw: st.DrawFn) -> Order:
    sizes = draw(st.lists(st.integers(1, 60), min_size=1, max_size=8))
    n = draw(st.integers(1, sum(sizes)))
    lanes = draw(st.integers(1, min(n, 12)))
    return Order(seed=draw(st.integers(0, 5)), n=n, lanes=lanes, window=draw(st.integers(1, 50)), shard_sizes=tuple(sizes))


def stream(order: Order, steps: int, share: int, start: int = 0) -> tuple[np.ndarray, np.ndarray]:
    batches = [order.batch(step, share * order.lanes) for step in range(start, start + steps)]
    return np.concatenate([b.samples for b in batches]), np.concatenate([b.epochs for b in batches])


@settings(max_examples=150, deadline=None)
@given(order=orders(), share=st.integers(1, 4))
def test_each_sample_once_an_epoch(order: Order, share: int) -> None:
    longest_lane = -(-order.n // order.lanes)
    samples, epochs = stream(order, 3 * longest_lane // share + 1, share)
    for epoch in (0, 1):
        assert sorted(samples[epochs == epoch]) == list(range(order.n))


@settings(max_examples=100, deadline=None)
@given(order=orders(), share=st.integers(1, 4), step=st.integers(0, 200))
def test_the_global_batch_does_not_depend_on_the_workers(order: Order, share: int, step: int) -> None:
    batch_size = share * order.lanes
    whole = order.batch(step, batch_size)
    for workers in (w for w in (1, 2, 3, 4, 8) if order.lanes % w == 0):
        parts = [order.batch(step, batch_size, worker, workers) for worker in range(workers)]
        assert {len(part.samples) for part in parts} == {batch_size // workers}
        together = sorted(zip(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)), strict=True))
        assert together == sorted(zip(whole.samples, whole.epochs, strict=True))


@settings(max_examples=50, deadline=None)
@given(order=orders(), share=st.integers(1, 3), start=st.integers(0, 60))
def test_a_resume_needs_the_step_number_alone(order: Order, share: int, start: int) -> None:
    unbroken, _ = stream(order, start + 5, share)
    fresh = Order(seed=order.seed, n=order.n, lanes=order.lanes, window=order.window, shard_sizes=order.shard_sizes)
    resumed, _ = stream(fresh, 5, share, start)
    assert np.array_equal(unbroken[-len(resumed) :], resumed)


def test_epochs_and_seeds_differ() -> None:
    orders_ = [Order(seed=seed, n=512, lanes=4, window=64, shard_sizes=(256, 256)) for seed in (0, 1)]
    first, second = (stream(order, 256, 1)[0] for order in orders_)
    assert not np.array_equal(first[:512], first[512:])
    assert not np.array_equal(first, second)


def test_aligned_shards_are_read_by_one_lane_each() -> None:
    order = Order(seed=0, n=1024, lanes=4, window=32, shard_sizes=(128,) * 8)
    for lane in range(4):
        samples = np.concatenate([order.batch(step, 4 * 32, worker=lane, workers=4).samples for step in range(8)])
        assert set(samples // 128) == {2 * lane, 2 * lane + 1}


def test_three_hundred_million_samples() -> None:
    """A seek into epoch 5 of a dataset of JFT's size is fast. Its memory grows with the windows of the lanes, not with n."""
    order = Order(seed=0, n=303_000_000, lanes=64, window=8192, shard_sizes=(2_048,) * 147_950)
    step = int(4.5 * 303_000_000 / 4096)
    tracemalloc.start()
    started = time.process_time()
    batch = order.batch(step, 4096)
    assert time.process_time() - started < 2
    assert tracemalloc.get_traced_memory()[1] < 32 * 2**20
    tracemalloc.stop()
    assert len(batch.samples) == 4096
    assert set(batch.epochs) == {4}


def test_uneven_splits_are_refused() -> None:
    order = Order(seed=0, n=100, lanes=4, window=8, shard_sizes=(100,))
    with pytest.raises(ValueError, match="must be divisible"):
        order.batch(0, 6)
    with pytest.raises(ValueError, match="must be divisible"):
        order.batch(0, 8, 0, 3)
    with pytest.raises(ValueError, match="outside"):
        Order(seed=0, n=101, lanes=4, window=8, shard_sizes=(100,))


def test_the_hash_is_pinned() -> None:
    """Results of different versions are comparable only if these numbers do not change."""
    assert hash_uint64(1, 2, np.arange(2)).tolist() == [16613338946343043936, 937349279089814987]
    assert permutation(8, 0).tolist() == [5, 7, 1, 4, 2, 0, 6, 3]
    assert len(np.unique(hash_uint64(7, np.arange(100_000)))) == 100_000
