"""What a verb takes on many records: a process each, as a user starts it, with its peak memory (`-m slow`).

100,000 records are written once and take a minute. Where nothing is timed, as in the default run, a few have to do.
"""

import os
import resource
import subprocess
import sys

import pytest

from tests.benchmarks.many import write

pytestmark = pytest.mark.slow

RECORDS, FEW = int(os.environ.get("DENSEBENCH_BENCHMARK_RECORDS", "100000")), 2000
VERBS = {
    "compare": ["compare"],
    "recommend": ["recommend", "--task", "segmentation", "--max-latency", "200ms"],
    "report": ["report"],
}
LOAD = "import bench; bench.load({!r})"


@pytest.fixture(scope="module")
def records(request):
    return RECORDS if request.config.getoption("benchmark_enable") else FEW


@pytest.fixture(scope="module")
def results(records, tmp_path_factory):
    return write(tmp_path_factory.mktemp("many"), records).parent


@pytest.mark.parametrize("verb", [*VERBS, "load"])
def test_a_verb_on_many_records(verb, records, results, benchmark):
    load = ["-c", LOAD.format(str(results))]
    words = load if verb == "load" else ["-m", "bench", *VERBS[verb], "--results", str(results)]

    def go():
        subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)

    benchmark.pedantic(go, rounds=1)
    benchmark.extra_info["records"] = records
    benchmark.extra_info["peak of all so far (MiB)"] = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


@pytest.mark.parametrize("verb", ["plan", "compact"])
def test_what_holds_few_records_at_a_time(verb, records, tmp_path, benchmark):
    """Ten times as many, of which a plan finds what it asks for, and compaction what counts; look at the memory."""
    folder = write(tmp_path, 10 * records)
    words = {
        "plan": ["run", "--dry-run", "--machine", folder.name],
        "compact": ["compact", "--dry-run"],
    }[verb]

    def go():
        words_ = [sys.executable, "-m", "bench", *words, "--results", str(tmp_path)]
        subprocess.run(words_, check=True, stdout=subprocess.DEVNULL)

    benchmark.pedantic(go, rounds=1)
    benchmark.extra_info["records"] = 10 * records
    benchmark.extra_info["peak of all so far (MiB)"] = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


@pytest.mark.parametrize("words", [["--help"], ["list", "backbones"]], ids=lambda words: words[0])
def test_what_needs_no_records_starts_at_once(words, benchmark):
    benchmark.pedantic(
        lambda: subprocess.run([sys.executable, "-m", "bench", *words], check=True, stdout=subprocess.DEVNULL), rounds=5
    )
