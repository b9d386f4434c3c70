"""To the device: every batch, in order, read and never written, one ahead and no more."""

import functools
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from clipmill import augment, device
from clipmill.device import Ready, Times, to_device
from clipmill.takes import View

VIEW = View(frames=4, size=16, resize=20, augment=("flip", "resized_crop", "color"))
PREPARE = functools.partial(augment.prepared, view=VIEW, training=True)
on_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

Batch = dict[str, NDArray[Any]]


def batch_of(number: int, count: int = 3, size: int = 20) -> Batch:
    """A batch as Ray's object store gives it: nobody may write to it."""
    rng = np.random.default_rng(number)
    made = {
        "rgb": rng.integers(0, 256, (count, 4, size, size, 3), np.uint8),
        "audio": rng.standard_normal((count, 7)).astype(np.float32),
        "target": rng.integers(0, 5, count),
        "position": np.arange(count) + 10 * number,
        "seed": rng.integers(0, 2**64, count, np.uint64),
        "digest": rng.integers(0, 256, (count, 32), np.uint8),
    }
    for array in made.values():
        array.flags.writeable = False
    return made


def bare(tensors: augment.Tensors, batch: Batch) -> augment.Tensors:
    return tensors


def check_equal(ready: Ready, batch: Batch) -> None:
    wanted = augment.prepare(batch, VIEW, training=True)
    assert ready.tensors.keys() == wanted.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(ready.tensors[name].cpu(), tensor, rtol=0, atol=1e-5)


def test_batches_come_prepared_and_in_order() -> None:
    batches = [batch_of(number, count) for number, count in enumerate((3, 3, 1))]
    times = Times()
    for batch, ready in zip(batches, to_device(batches, "cpu", PREPARE, times=times), strict=True):
        assert ready.batch is batch
        check_equal(ready, batch)
    assert times.batches == 3
    told = ("rgb", "audio", "target", "position", "digest")
    assert times.bytes == sum(batch[name].nbytes for batch in batches for name in told)
    assert times.prepare_seconds > 0 and times.copy_seconds > 0


def test_frames_are_read_where_they_lie_and_the_rest_is_the_networks_own() -> None:
    batch = batch_of(0)
    (ready,) = to_device([batch], "cpu", bare)
    assert ready.tensors["rgb"].data_ptr() == batch["rgb"].ctypes.data
    before = batch["target"].copy()
    for name in ("audio", "target", "position"):
        ready.tensors[name].zero_()
    np.testing.assert_array_equal(batch["target"], before)


def test_arrays_of_any_stride_go_through() -> None:
    batch = batch_of(0)
    turned = {**batch, "rgb": batch["rgb"][:, ::-1, :, ::2], "target": batch["target"][::-1]}
    (ready,) = to_device([turned], "cpu", bare)
    for name in ("rgb", "target"):
        np.testing.assert_array_equal(ready.tensors[name].numpy(), turned[name])


def test_waiting_for_the_source_is_told_apart_from_work() -> None:
    def slow() -> Iterator[Batch]:
        for number in range(3):
            time.sleep(0.05)
            yield batch_of(number)

    times = Times()
    for _ in to_device(slow(), "cpu", bare, times=times):
        time.sleep(0.05)  # a step of the network is neither
    assert times.wait_seconds >= 0.15
    assert times.copy_seconds + times.prepare_seconds < times.wait_seconds


def test_a_fault_of_the_source_comes_after_what_came_before_it() -> None:
    def faulty() -> Iterator[Batch]:
        yield batch_of(0)
        raise OSError("the shard is gone")

    seen = []
    with pytest.raises(OSError, match="the shard is gone"):
        for ready in to_device(faulty(), "cpu", PREPARE):
            seen.append(ready)
    assert len(seen) == 1


def counted(made: list[int], total: int) -> Iterator[Ready]:
    for number in range(total):
        made.append(number)
        yield Ready({}, {"number": np.array(number)})


def test_one_is_made_ahead_and_no_more() -> None:
    made: list[int] = []
    items = device.one_ahead(counted(made, 6))
    for number in range(6):
        assert int(next(items).batch["number"]) == number
        due = min(6, number + 2)
        patience = time.monotonic() + 5
        while len(made) < due and time.monotonic() < patience:
            time.sleep(0.001)
        time.sleep(0.01)
        assert made == list(range(due))
    assert next(items, None) is None


def test_what_is_left_early_leaves_no_thread() -> None:
    made: list[int] = []
    items = device.one_ahead(counted(made, 100))
    next(items)
    items.close()  # type: ignore[attr-defined]
    assert "clipmill-device" not in [thread.name for thread in threading.enumerate()]
    assert len(made) <= 2


def test_a_fault_in_the_thread_is_raised_where_it_is_due() -> None:
    def faulty() -> Iterator[Ready]:
        yield Ready({}, {})
        raise KeyboardInterrupt

    items = device.one_ahead(faulty())
    next(items)
    with pytest.raises(KeyboardInterrupt):
        next(items)
    assert "clipmill-device" not in [thread.name for thread in threading.enumerate()]


def test_memory_of_a_slot_is_used_again_and_grows_to_the_largest_batch() -> None:
    slot, places = device.Slot(), []
    for number, count in enumerate((3, 2, 3, 5, 4)):
        batch = batch_of(number, count)
        filled = slot.filled(augment.borrowed(batch), pin=False)
        for name, tensor in filled.items():
            np.testing.assert_array_equal(tensor.numpy(), batch[name])
        places.append(filled["rgb"].data_ptr())
    assert places[0] == places[1] == places[2] and places[3] == places[4]


@on_cuda
def test_cuda_gives_what_the_cpu_gives() -> None:
    batches = [batch_of(number, count) for number, count in enumerate((3, 4, 4, 4, 1))]
    times = Times()
    kept = list(to_device(batches, "cuda", PREPARE, times=times))
    for batch, ready in zip(batches, kept, strict=True):
        assert all(tensor.is_cuda for tensor in ready.tensors.values())
        check_equal(ready, batch)
    assert times.batches == 5 and times.copy_seconds > 0 and times.prepare_seconds > 0


@on_cuda
def test_memory_on_cuda_is_not_used_again_while_a_step_reads_it() -> None:
    """A long step on its own stream sees its batch, though later batches come meanwhile."""
    sums, wanted = [], []
    for ready in to_device([batch_of(n, 8, 64) for n in range(12)], "cuda", bare):
        torch.cuda._sleep(20_000_000)  # type: ignore[no-untyped-call]
        sums.append(ready.tensors["rgb"].sum())
        wanted.append(int(ready.batch["rgb"].sum()))
        del ready
    assert [int(each) for each in sums] == wanted
