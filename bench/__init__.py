"""The harness of densebench: plan, measure, compare, report.

For notebooks and training loops of your own::

    model = bench.build("vit_tiny", "linear", patch=8, size=(224, 224), classes=21)
    frame = bench.load("results")  # or of several: bench.load("results", "theirs/results")
    model = bench.load_model("3f2a1c")  # that `densebench run --keep-models` has kept
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.model.build import build
    from bench.model.kept import load_model
    from bench.report.frame import load

__all__ = ["build", "load", "load_model"]


def __getattr__(name: str) -> Any:
    # Imported when asked for: planning and reporting must not wait for torch or pandas.
    if name == "build":
        from bench.model.build import build  # noqa: PLC0415

        return build
    if name == "load_model":
        from bench.model.kept import load_model  # noqa: PLC0415

        return load_model
    if name == "load":
        from bench.report.frame import load  # noqa: PLC0415

        return load
    raise AttributeError(f"module 'bench' has no attribute '{name}'")
