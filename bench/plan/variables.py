"""Environment variables that change how fast the same model runs, where somebody has set them.

Threads and how they wait, instructions that libraries may use, allocators, TF32, what the compiler does: two shells
that differ in one of them give two speeds of one machine, so they are part of `bench.plan.environment.Environment`.
"""

import platform
import re
from collections.abc import Mapping

from bench.errors import printable

SPIN = {"GOMP_SPINCOUNT": "50000", "KMP_BLOCKTIME": "2"}
"""How long an idle thread of OpenMP keeps its CPU busy before it sleeps: 1 to 3 ms, of GNU's and of LLVM's library.

Their own choice is 5 to 15 ms and 200 ms, for which the threads of one cell would compete with those of the next one.
Between two operations of a pass there is far less, so that no thread falls asleep within one. Workers run with it, and
what a user sets instead is part of the environment."""

_FAMILIES = (
    *("OMP_", "GOMP_", "KMP_", "LIBOMP_", "MKL_", "DNNL_", "ONEDNN_", "ATEN_", "PYTORCH_", "TORCH_"),
    *("TORCHDYNAMO_", "TORCHINDUCTOR_", "TRITON_", "CUBLAS_", "CUBLASLT_", "CUDNN_", "NVIDIA_TF32_"),
    *("MALLOC_", "MIMALLOC_", "TCMALLOC_"),
)
"""What their names begin with."""
_OPENBLAS = "OPENBLAS_"
"""On x86-64 PyTorch computes with MKL and oneDNN; there OpenBLAS is NumPy's alone, and no time is of it."""
_SINGLE = frozenset(
    {
        *("LD_PRELOAD", "GLIBC_TUNABLES", "LRU_CACHE_CAPACITY"),
        *("CUDA_LAUNCH_BLOCKING", "CUDA_MODULE_LOADING", "CUDA_DEVICE_MAX_CONNECTIONS", "CUDA_FORCE_PTX_JIT"),
        *("CUDA_AUTO_BOOST", "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"),
        *("PYTHONMALLOC", "PYTHONDEVMODE", "PYTHONTRACEMALLOC", "PYTHON_GIL", "PYTHON_JIT"),
    }
)
_ASIDE = re.compile(
    r".*_(DIR|DIRS|HOME|PATH|ROOT|FILE|VERSION)|TORCH_(LOGS|TRACE|SHOW_CPP_STACKTRACES|CPP_LOG_LEVEL|CUDA_ARCH_LIST)"
    r"|PYTORCH_(BUILD_NUMBER|NVML_BASED_CUDA_CHECK)|MKL_VERBOSE|(DNNL|ONEDNN)_VERBOSE|OMP_DISPLAY_.*|KMP_(SETTINGS|VERSION|WARNINGS|DUPLICATE_LIB_OK)"
)
"""Where things lie, which version something is, what is shown, and how torch looks for GPUs: no speed."""
_FOLDERS = re.compile(r"(?:[^\s:;,=/]*/)+")


def speed(environment: Mapping[str, str]) -> dict[str, str]:
    """Name -> value of those that are set, in the order of their names; paths without their folders, which are private.

    What is empty is not set, and what is as `SPIN` has it goes without saying.
    """
    families = (*_FAMILIES, _OPENBLAS) if platform.machine() not in ("x86_64", "AMD64") else _FAMILIES
    return {
        name: printable(_FOLDERS.sub("", value))
        for name, value in sorted(environment.items())
        if (name in _SINGLE or name.startswith(families))
        and not _ASIDE.fullmatch(name)
        and value
        and value != SPIN.get(name)
    }
