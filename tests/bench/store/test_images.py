import numpy as np
import pytest

from bench.errors import UserError
from bench.store import images

ARRAYS = {"counts": np.arange(12).reshape(3, 4), "classes": np.array(["disc", "ring"])}


def test_what_is_written_is_read_back(tmp_path):
    digest = images.write(tmp_path / "new" / "images", ARRAYS)
    found = images.read(tmp_path / "new" / "images", digest)
    assert found is not None
    assert {name: array.tolist() for name, array in found.items()} == {
        name: array.tolist() for name, array in ARRAYS.items()
    }
    assert [path.name for path in (tmp_path / "new" / "images").iterdir()] == [f"{digest}.npz"], "nothing beside it"


def test_equal_arrays_have_one_file_and_others_another(tmp_path):
    first, second = (images.write(tmp_path, ARRAYS) for _ in range(2))
    other = images.write(tmp_path, {**ARRAYS, "counts": np.zeros(3)})
    assert first == second != other
    assert len(list(tmp_path.iterdir())) == 2


def test_a_file_that_is_not_there_is_none_and_one_that_was_changed_is_named(tmp_path):
    digest = images.write(tmp_path, ARRAYS)
    assert images.read(tmp_path, "0" * 16) is None
    path = tmp_path / f"{digest}.npz"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match=rf"{digest}\.npz cannot be read \(it has other bytes.*remove it"):
        images.read(tmp_path, digest)
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError, match=rf"{digest}\.npz cannot be read \(.*Is a directory"):
        images.read(tmp_path, digest)


def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        images.write(tmp_path, ARRAYS)
    assert not list(tmp_path.iterdir())
