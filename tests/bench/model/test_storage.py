"""Live storage on allocations made by hand, to the byte; an allocator that is played by it."""

import gc
import weakref

import pytest
import torch
from torch import nn
from torch.nn.functional import linear, scaled_dot_product_attention

from bench.model import storage
from bench.model.storage import LiveStorage, allocated_peak, live_peak, resident_peak, status_bytes

KIB = 1024


@pytest.fixture(scope="module", autouse=True)
def _frozen():
    """What the imports left behind is no garbage: looking for some takes a quarter of a second a time."""
    gc.freeze()
    yield
    gc.unfreeze()


def kib(count, device="cpu"):
    return torch.ones(count * 256, device=device)


def test_what_lives_at_a_time_counts_and_not_what_was_allocated():
    with LiveStorage() as live:
        one = kib(4)
        two = kib(8)
        assert live.live_bytes == 12 * KIB
        del one
        assert live.live_bytes == 8 * KIB
        three = kib(2)
        assert (live.live_bytes, live.peak_bytes) == (10 * KIB, 12 * KIB)
    del two, three
    assert (live.live_bytes, live.peak_bytes) == (0, 12 * KIB), "they are followed beyond the end"


def test_views_and_work_in_place_create_nothing():
    before = kib(4)
    with LiveStorage() as live:
        before.add_(1).view(2, -1).t()
        before[10:].relu_()
        part = kib(4)[:1]
        assert live.peak_bytes == live.live_bytes == 4 * KIB, "a view of one element keeps all of its storage"
        part.detach().expand(64).unbind()
    assert live.peak_bytes == 4 * KIB


def test_what_was_there_before_does_not_count():
    before = kib(4)
    with LiveStorage() as live:
        del before
        kib(1)
    assert (live.live_bytes, live.peak_bytes) == (0, KIB)


@pytest.mark.parametrize("own", [True, False])
def test_what_is_resized_counts_with_what_was_added(own):
    before = kib(1)
    with LiveStorage() as live:
        tensor = kib(1) if own else before
        torch.add(kib(3), 1, out=tensor.resize_(3 * 256))
        assert live.live_bytes == (3 if own else 2) * KIB
        del before, tensor
        assert live.live_bytes == 0


def test_operations_that_consist_of_others_are_taken_apart_in_inference_mode_as_well():
    """Attention by hand on two images: the product of matrices copies what cannot be viewed as one batch."""

    def call():
        q, k, v = torch.ones(2, 16, 3, 4, 8).permute(2, 0, 3, 1, 4).unbind(0)
        return scaled_dot_product_attention(q, k, v) + linear(q @ k.transpose(-2, -1) @ v, torch.ones(8, 8))

    peaks = []
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            peaks.append(live_peak(call))
    with torch.inference_mode():
        a, b = torch.ones(2, 4, 8, 6), torch.ones(2, 8, 4, 6).transpose(1, 2)
        copied = live_peak(lambda: a @ b.transpose(-2, -1))
    assert peaks[0] == peaks[1]
    assert copied == 4 * (b.numel() + 2 * 4 * 8 * 8), "the copy of what is strided, and the result"


def test_the_meta_device_is_followed_too():
    with LiveStorage() as live:
        one, two = kib(3, "meta"), kib(5, "meta")
        assert live.live_bytes == 8 * KIB
        del one, two
    assert (live.live_bytes, live.peak_bytes) == (0, 8 * KIB)


def test_what_an_autograd_graph_keeps_is_alive():
    weight = torch.ones(256, requires_grad=True)
    with LiveStorage() as live:
        loss = (weight * 2).exp().sum()
        assert live.live_bytes == KIB + 4, "exp keeps its result"
        loss.backward()
        del loss
        assert live.live_bytes == KIB, "the gradient"
    assert live.peak_bytes == 2 * KIB + 8, "exp's result and its product with the gradient; the loss and its gradient"


def test_numbers_of_python_count_when_they_become_a_tensor():
    with LiveStorage() as live:
        tensor = torch.tensor([1.0] * 256)
        assert live.live_bytes == KIB
        del tensor
        assert live.live_bytes == 0


def test_cyclic_garbage_waits_and_the_collector_is_left_as_it_was():
    class Node:
        pass

    with LiveStorage() as live:
        assert not gc.isenabled()
        node = Node()
        node.itself, node.tensor = node, kib(1)
        gone = weakref.ref(node)
        del node
        assert live.live_bytes == KIB
    assert gc.isenabled()
    gc.collect()
    assert gone() is None
    assert live.live_bytes == 0
    gc.disable()
    live_peak(lambda: None)
    assert not gc.isenabled()
    gc.enable()


def test_a_tensor_without_storage_is_no_error():
    with LiveStorage() as live:
        torch.eye(4).to_sparse()
    assert live.peak_bytes >= 64


def test_a_peak_repeats_exactly():
    net = nn.Sequential(nn.Linear(8, 64), nn.GELU(), nn.LayerNorm(64), nn.MultiheadAttention(64, 4, batch_first=True))

    def call():
        hidden = net[:3](torch.ones(2, 5, 8))
        return net[3](hidden, hidden, hidden)

    assert len({live_peak(call) for _ in range(3)}) == 1


def test_the_high_water_mark_follows_what_is_touched():
    """64 MiB touched are seen, and given back they do not count for the next one."""
    for mebibytes in (64, 16):
        peak = resident_peak(lambda: torch.ones(mebibytes << 18))  # noqa: B023 - called at once
        assert mebibytes * 0.95 < peak / storage.MIB < mebibytes + 12


def test_a_size_that_the_system_does_not_tell(monkeypatch):
    with pytest.raises(OSError, match="no VmNonsense; it takes Linux"):
        status_bytes("VmNonsense")
    monkeypatch.setattr(storage, "status_bytes", lambda name: status_bytes("VmNonsense"))
    assert resident_peak(lambda: None) is None, "unknown, and not 0"


class Allocator:
    """torch.accelerator of a device that has live storage for memory."""

    def __init__(self, before):
        self.live = LiveStorage()
        self.before = before
        self.trimmed = self.waited = 0

    def install(self, monkeypatch):
        for name in (
            "empty_cache",
            "synchronize",
            "reset_peak_memory_stats",
            "memory_allocated",
            "max_memory_allocated",
            "max_memory_reserved",
        ):
            monkeypatch.setattr(torch.accelerator, name, getattr(self, name))

    def empty_cache(self):
        self.trimmed += 1

    def synchronize(self, device):
        self.waited += 1

    def reset_peak_memory_stats(self, device):
        self.live.peak_bytes = self.live.live_bytes

    def memory_allocated(self, device):
        return self.before + self.live.live_bytes

    def max_memory_allocated(self, device):
        return self.before + self.live.peak_bytes

    def max_memory_reserved(self, device):
        return -(-self.max_memory_allocated(device) // 2048) * 2048


def test_the_peak_of_a_device_is_above_its_baseline_and_the_pool_is_not(monkeypatch):
    allocator = Allocator(before=100 * KIB)
    allocator.install(monkeypatch)
    with allocator.live:
        kept = kib(7)
        kib(50)
        assert allocated_peak(lambda: kib(2) + 1, torch.device("cuda")) == (4 * KIB, 112 * KIB)
    assert kept.device.type == "cpu"
    assert (allocator.trimmed, allocator.waited) == (1, 2)


class Driver:
    def __init__(self, mib):
        self.mib = mib

    def process_memory_mib(self, pid):
        return self.mib


@pytest.mark.parametrize(("gpu", "expected"), [(None, None), (Driver(None), None), (Driver(512.0), 512 * storage.MIB)])
def test_the_memory_of_the_process_on_a_gpu_is_the_drivers(monkeypatch, gpu, expected):
    class Properties:
        uuid = "1234"

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Properties)
    monkeypatch.setattr(storage, "open_gpu", lambda uuid: gpu if uuid == "1234" else None)
    assert storage.device_process_bytes(torch.device("cuda")) == expected
    assert storage.device_process_bytes(torch.device("xpu")) is None
