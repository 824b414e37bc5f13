"""A browser that has no network, and pages opened in it."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.report.explorer import explore
from tests.bench.records import make, small_catalogue, write
from tests.bench.report.explorer.turns import many, two_machines

NAMES = ("chromium", "chromium-browser", "google-chrome")
LOCAL = ("file:", "data:", "blob:")


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium of the system."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install -e '.[test]'")
    path = next((found for name in NAMES if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip("needs a chromium on the PATH: apt-get install chromium")
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield found
        found.close()


def _written(factory: pytest.TempPathFactory, make: Callable[[Path], object]) -> Path:
    folder = factory.mktemp("explorer")
    with small_catalogue(folder / "catalogue"):
        make(folder / "results")
        return explore(folder / "results")[0]


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of two machines."""
    return _written(tmp_path_factory, two_machines)


@pytest.fixture(scope="session")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of 10,000 rows."""
    return _written(tmp_path_factory, lambda folder: write(folder / "box", many()))


@pytest.fixture(scope="session")
def failed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of rows that all failed."""
    records = [make("latency", backbone=name, status="oom", reason="no room") for name in ("a", "b")]
    return _written(tmp_path_factory, lambda folder: write(folder / "box", records))


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens a page at a fragment, without a network; what it complains of or asks the network for fails the test."""
    complaints: list[str] = []
    contexts: list[Any] = []

    def opened(path: Path, fragment: str = "", **given: Any) -> Any:
        context = browser.new_context(offline=True, accept_downloads=True, **given)
        context.set_default_timeout(10_000)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda said: complaints.append(said.text) if said.type in {"error", "warning"} else None)
        page.on("request", lambda asked: None if asked.url.startswith(LOCAL) else complaints.append(asked.url))
        page.goto(f"{path.as_uri()}{fragment}")
        page.wait_for_selector("#table tbody")
        return page

    yield opened
    for context in contexts:
        context.close()
    # A picture that is not there is no mistake: it is not shown.
    assert [text for text in complaints if "ERR_FILE_NOT_FOUND" not in text] == []
