import os
import platform

import pytest

from bench.plan.environment import Environment, as_json, consistent, describe
from bench.plan.variables import SPIN, speed


@pytest.fixture
def bare(monkeypatch):
    """A shell in which nothing is set that changes speed."""
    for name in (*SPIN, *speed(os.environ)):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_how_threads_wait_is_part_of_the_environment_unless_it_is_as_the_suite_has_it(bare):
    usual = describe()
    assert not usual.variables
    bare.setenv("GOMP_SPINCOUNT", SPIN["GOMP_SPINCOUNT"])
    assert describe().comparable == usual.comparable
    bare.setenv("GOMP_SPINCOUNT", "1")
    assert describe().variables["GOMP_SPINCOUNT"] == "1"
    assert describe().comparable != usual.comparable


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MKL_CBWR", "COMPATIBLE"),
        ("ATEN_CPU_CAPABILITY", "default"),
        ("ONEDNN_MAX_CPU_ISA", "SSE41"),
        ("DNNL_DEFAULT_FPMATH_MODE", "BF16"),
        ("OMP_PROC_BIND", "true"),
        ("OMP_NUM_THREADS", "1"),
        ("KMP_AFFINITY", "granularity=fine,compact,1,0"),
        ("MALLOC_ARENA_MAX", "1"),
        ("GLIBC_TUNABLES", "glibc.malloc.tcache_count=0"),
        ("TORCHINDUCTOR_MAX_AUTOTUNE", "1"),
        ("TORCHDYNAMO_DISABLE", "1"),
        ("TORCH_COMPILE_DISABLE", "1"),
        ("CUDA_LAUNCH_BLOCKING", "1"),
        ("NVIDIA_TF32_OVERRIDE", "0"),
        ("PYTORCH_ALLOC_CONF", "backend:cudaMallocAsync"),
        ("PYTORCH_CUDA_ALLOC_CONF", "max_split_size_mb:64"),
        ("PYTORCH_NO_CUDA_MEMORY_CACHING", "1"),
        ("PYTHONMALLOC", "debug"),
    ],
)
def test_what_changes_speed_makes_another_environment(bare, name, value):
    usual = describe()
    bare.setenv(name, value)
    found = describe()
    assert found.variables == {name: value}
    assert found.comparable != usual.comparable
    assert consistent(found)
    assert found.title() == f"{usual.title()}, {name}={value}"


@pytest.mark.parametrize(
    "name",
    [
        *(
            "TORCHINDUCTOR_CACHE_DIR",
            "TRITON_CACHE_DIR",
            "TORCH_HOME",
            "TORCH_LOGS",
            "PYTORCH_VERSION",
            "CUDNN_VERSION",
        ),
        *("MKL_VERBOSE", "OMP_DISPLAY_ENV", "OMPI_COMM_WORLD_SIZE", "MKLROOT", "CUDA_VISIBLE_DEVICES", "PATH"),
    ],
)
def test_where_things_lie_and_what_is_shown_is_no_part_of_it(name):
    assert speed({name: "1"}) == {}


def test_of_what_is_preloaded_the_folders_stay_private():
    found = speed({"LD_PRELOAD": "/home/somebody/secret/libjemalloc.so.2:/opt/other/libx.so libz.so"})
    assert found == {"LD_PRELOAD": "libjemalloc.so.2:libx.so libz.so"}


def test_what_is_empty_is_not_set_and_no_value_steers_a_terminal():
    assert speed({"LD_PRELOAD": "", "MKL_CBWR": "\x1b[2J"}) == {"MKL_CBWR": r"\x1b[2J"}


def test_openblas_counts_where_pytorch_computes_with_it(monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert speed({"OPENBLAS_NUM_THREADS": "1"}) == {"OPENBLAS_NUM_THREADS": "1"}
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    assert speed({"OPENBLAS_NUM_THREADS": "1"}) == {}


def test_an_environment_with_a_long_value_has_a_heading_that_can_be_read(bare):
    bare.setenv("GLIBC_TUNABLES", "x" * 1000)
    found = describe()
    assert isinstance(found, Environment)
    assert len(found.title()) < 300
    assert as_json(found)["variables"] == {"GLIBC_TUNABLES": "x" * 1000}
