"""What every data set on disk promises, whatever its layout: each is walked by its being in the catalogue."""

# The name of a test says what it shows.

import itertools
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bench import catalogue
from bench.data.contract import Dataset, Split
from bench.errors import DataError, UserError
from tests.bench.data import fixtures

ON_DISK = {name: entry for name, entry in catalogue.entries("data").items() if entry.facts["root"]}
CASES = [(name, task) for name, entry in ON_DISK.items() for task in entry.facts["tasks"]]


def load(name: str, task: str, root: Path, split: Split, **options: bool) -> Dataset:
    module = ON_DISK[name].load()
    return module.load(name, task=task, root=root, cache=root.parent / "cache", split=split, **options)


@pytest.fixture
def root(name: str, tmp_path: Path) -> Path:
    return fixtures.WRITERS[name](tmp_path / "own")


@pytest.mark.parametrize(("name", "task"), CASES)
def test_samples_keep_the_contract(name: str, task: str, root: Path) -> None:
    note = ON_DISK[name].load().check(root, task)
    assert isinstance(note, str)
    seen: list[set[Path]] = []
    train, val = (load(name, task, root, split) for split in ("train", "val"))
    assert train.classes == val.classes
    assert len(set(train.classes)) == len(train.classes) > 1
    for dataset in (train, val):
        assert (dataset.task, len(dataset) > 0) == (task, True)
        assert dataset.background is None or dataset.classes[dataset.background].strip("_") == "background"
        seen.append({dataset.files(index)[0] for index in range(len(dataset))})
        for index, size in itertools.product(range(len(dataset)), ((24, 40), fixtures.SIZE)):
            sample, truth, verified = dataset.sample(index, size), dataset.truth(index), dataset.verify(index)
            assert (sample.image.shape, sample.image.dtype) == ((*size, 3), np.uint8)
            assert sample.truth.size == size
            assert truth.size == verified.size == fixtures.SIZE
            np.testing.assert_array_equal(truth.boxes, verified.boxes)
            if task == "segmentation":
                mask = sample.truth.mask
                assert mask is not None
                assert (mask.shape, mask.dtype) == (size, np.uint8)
                assert set(np.unique(mask)) <= {*range(len(dataset.classes)), 255}
            else:
                assert len(truth.boxes) == len(truth.labels) == len(truth.ignore)
                assert truth.labels.size == 0 or 0 <= truth.labels.min() <= truth.labels.max() < len(dataset.classes)
    assert not seen[0] & seen[1], "no picture is learnt from and judged by"


@pytest.mark.parametrize(("name", "task"), CASES)
@pytest.mark.parametrize("kind", ["cut", "empty", "gone"])
def test_a_broken_picture_is_named_and_costs_no_other(name: str, task: str, root: Path, kind: str) -> None:
    victim = load(name, task, root, "train").files(0)[0]
    others = {path for index in range(1, 3) for path in load(name, task, root, "train").files(index)[:1]}
    if kind == "gone":
        victim.unlink()
    else:
        fixtures.truncate(victim, 0.5 if kind == "cut" else 0)
    dataset = load(name, task, root, "train")
    broken = []
    for index in range(len(dataset)):
        try:
            dataset.verify(index)
        except DataError as error:
            broken.append(str(error))
    assert len(broken) == 1
    assert broken[0].startswith(str(victim))
    whole = {dataset.files(index)[0] for index in range(len(dataset))}
    assert others <= whole


@pytest.mark.parametrize(("name", "task"), CASES)
def test_a_data_set_travels_to_a_worker(name: str, task: str, root: Path) -> None:
    dataset = load(name, task, root, "train")
    dataset.sample(0, (360, 480))
    packed = pickle.dumps(dataset)
    assert len(packed) < 10_000, "without the samples that it keeps"
    again = pickle.loads(packed)
    np.testing.assert_array_equal(again.sample(0, (24, 32)).image, dataset.sample(0, (24, 32)).image)


@pytest.mark.parametrize("name", ON_DISK)
def test_folders_of_something_else_are_refused_in_a_sentence(name: str, tmp_path: Path) -> None:
    module = ON_DISK[name].load()
    task = ON_DISK[name].facts["tasks"][0]
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("nothing")
    for folder in ("empty", "full", "nowhere"):
        with pytest.raises(DataError, match=rf"{folder}: .*; want ") as error:
            module.check(tmp_path / folder, task)
        assert len(str(error.value)) < 900
    with pytest.raises(UserError, match="unknown data set"):
        module.load(f"{name}x", task=task, root=tmp_path, cache=tmp_path, split="train")


def test_importing_them_brings_no_torch() -> None:
    modules = ", ".join(entry.module for entry in ON_DISK.values())
    code = f"import sys, {modules}; sys.exit(', '.join({{'torch', 'pandas', 'matplotlib'}} & set(sys.modules)) or 0)"
    subprocess.run([sys.executable, "-c", code], cwd=catalogue.ROOT, check=True)
