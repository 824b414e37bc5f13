"""What torch can do here: on this CPU for real, on CUDA as far as it can be told without one."""

from types import SimpleNamespace

import pytest
import torch

from bench.model import probe, seen


@pytest.fixture
def cuda(monkeypatch):
    """A torch that sees two GPUs."""
    found = SimpleNamespace(name="H100", total_memory=80 * 2**30)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: found)


def test_devices_are_named_as_cells_name_them(cuda):
    found = probe.devices()
    assert [device.name for device in found.devices] == ["cuda:0", "cuda:1"]
    assert found.devices[0] == probe.Device("cuda:0", "H100", 80.0)
    assert found.version == torch.__version__


def test_why_cuda_does_not_work_is_in_torchs_words(monkeypatch):
    def refuse():
        raise RuntimeError("The NVIDIA driver on your system is too old")

    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    monkeypatch.setattr(torch.cuda, "init", refuse)
    assert probe.devices() == probe.Torch(
        torch.__version__, "13.2", torch.version.hip, (), "The NVIDIA driver on your system is too old"
    )


def test_a_torch_without_cuda_has_nothing_to_say(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    assert probe.devices().said == ""


def test_a_device_that_shares_the_cpus_memory_tells_no_size():
    assert seen._device("mps:0").memory_gib is None


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(probe, "BUDGET_S", 0.01)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)


def test_products_of_this_cpu(quick):
    found = probe.products("cpu", 64)
    assert list(found) == ["fp32", "bf16", "fp16"]
    assert all(speed > 0 for speed in found.values())


def test_a_dtype_that_does_not_multiply_says_why(quick, monkeypatch):
    def refuse(device, dtype, side):
        if dtype is torch.float16:
            raise RuntimeError("\"addmm_impl_cpu_\" not implemented for 'Half'\nmore")
        return 2.0

    monkeypatch.setattr(probe, "_tflops", refuse)
    assert probe.products("cpu") == {"fp32": 2.0, "bf16": 2.0, "fp16": "\"addmm_impl_cpu_\" not implemented for 'Half'"}


def test_on_cuda_fp32_is_no_tf32(quick, monkeypatch):
    before = torch.backends.cuda.matmul.fp32_precision
    used = []
    monkeypatch.setattr(
        probe, "_tflops", lambda *_: used.append(torch.backends.cuda.matmul.fp32_precision) or len(used)
    )
    try:
        assert list(probe.products("cuda:0")) == ["fp32", "tf32", "bf16", "fp16"]
    finally:
        torch.backends.cuda.matmul.fp32_precision = before
    assert used == ["ieee", "tf32", "ieee", "ieee"]


def test_kernels_of_this_cpu():
    found = probe.kernels("cpu")
    assert list(found) == ["flash", "efficient", "cudnn", "math"]
    assert "fp32" in found["math"]
    assert found["cudnn"] == []


def test_a_kernel_that_gives_something_else_does_not_work(monkeypatch):
    real = probe._attention

    def wrong(backend, inputs):
        result = real(backend, inputs)
        if backend is not probe.KERNELS["math"] or inputs[0].dtype is not torch.bfloat16 or result is None:
            return result
        return result * float("nan")

    assert probe.kernels("cpu")["math"] == ["fp32", "bf16", "fp16"]
    monkeypatch.setattr(probe, "_attention", wrong)
    assert probe.kernels("cpu")["math"] == ["fp32", "fp16"]


@pytest.fixture
def compiler(monkeypatch):
    """Stands in for torch.compile, whose loading takes seconds; the real one runs in the test of the command."""
    monkeypatch.setattr(torch.compiler, "reset", lambda: None)
    monkeypatch.setattr(probe, "import_module", lambda name: None)
    return lambda compiled: monkeypatch.setattr(torch, "compile", lambda function: compiled)


def test_a_compiled_function_has_to_give_the_same(compiler):
    compiler(lambda tensor: tensor.sin() * 2 + 1)
    found = probe.compiled("cpu")
    assert found.load_s >= 0
    assert found.compile_s >= 0
    compiler(lambda tensor: tensor.cos())
    with pytest.raises(RuntimeError, match="something else"):
        probe.compiled("cpu")
