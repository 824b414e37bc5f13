"""Ranks and claims of accuracies whose images were kept."""

from pathlib import Path

import numpy as np
import pytest

from bench.errors import UserError
from bench.plan.measure import IMAGES
from bench.report.compare import compare
from bench.report.rows import Table, read
from bench.report.tables import texts
from bench.stats.overlap import Overlaps
from bench.stats.ranking import Rank
from bench.store import images
from bench.store.record import Record
from tests.bench.records import make, write

pytestmark = pytest.mark.usefixtures("known")

N = 40
HARD = np.random.default_rng(0).integers(100, 900, N)
"""Pixels of a thousand that are right in each image, for a model without qualities of its own."""


def kept(folder: Path, gain: int, first: int = 0) -> tuple[str, float]:
    """Digest and mIoU of a model that has so many more pixels right in every image."""
    hits = HARD + gain
    counts = np.zeros((N, 1, 3), np.int64)
    counts[:, 0] = np.stack([hits, np.zeros(N, np.int64), 1000 - hits], -1)
    found = Overlaps(np.arange(first, first + N, dtype=np.uint64), ("all",), None, {"all": counts})
    miou = found.figure("miou")
    assert miou is not None
    return images.write(folder / images.FOLDER, found.arrays()), float(miou[0])


def records(folder: Path, gains: dict[str, list[int]], *, without: str = "", first: int = 0) -> list[Record]:
    """Backbone -> what each of its seeds gains; of one of them no images are kept."""
    made = []
    for backbone, seeds in gains.items():
        for seed, gain in enumerate(seeds):
            digest, miou = kept(folder, gain, first)
            file = {} if backbone == without else {IMAGES: digest}
            made += [make("accuracy", backbone=backbone, seed=seed, miou=miou, **file)]
        made.append(make("complexity", backbone=backbone, params_m=float(len(made))))
    return made


def table(folder: Path, found: list[Record]) -> Table:
    (only,) = read(write(folder, found)).tables
    return only


def ranks(of: Table) -> dict[str, Rank]:
    return {row.fields["backbone"]: rank for row, rank in of.ranks.items()}


TWO = {"best": [50, 52], "close": [40, 42], "far": [-60, -58]}
"""Pairs of seeds 0.2 points apart: noise of 0.14, of three degrees of freedom."""


def test_ranks_follow_the_images_that_two_models_share(tmp_path: Path) -> None:
    """The models differ by one point and images by twenty: only set against each other can they be told apart."""
    folder = tmp_path / "box"
    found = table(folder, records(folder, TWO))
    assert ranks(found) == {"best": Rank(1, False), "close": Rank(2, False), "far": Rank(3, False)}
    (paired,) = found.paired.values()
    assert (paired.parts, paired.paired, paired.pictures, paired.seeds) == (3, 3, (N, N), (2, 2))
    text = texts(read(folder))["segmentation.md"]
    assert (
        "Ranks by mIoU: rows share a rank when a paired bootstrap over the 40 images (2000 samples) and seed " in text
    )
    assert "seed noise (sd 0.14, 3 degrees of freedom) cannot tell them apart" in text
    assert "Seed noise of mIoU" not in text, "one method is stated, and no other"


def test_seeds_are_noise_in_spite_of_the_images(tmp_path: Path) -> None:
    """One point apart on every image, and as far from one seed to the next: nothing may be claimed."""
    folder = tmp_path / "box"
    found = ranks(table(folder, records(folder, {"best": [45, 57], "close": [36, 46]})))
    assert found == {"best": Rank(1, True), "close": Rank(1, True)}


def test_of_single_seeds_nothing_is_claimed_where_no_noise_is_known(tmp_path: Path) -> None:
    folder = tmp_path / "box"
    found = table(folder, records(folder, {"best": [50], "far": [-60]}))
    assert set(ranks(found).values()) == {Rank(1, True)}
    text = texts(read(folder))["segmentation.md"]
    assert "seed noise is unknown (no row has two seeds), and a paired bootstrap" in text
    (section,) = compare(folder, cost="params_m").sections
    assert [point.pareto or point.near for point in section.points] == [True, True]


def test_a_row_without_images_is_ranked_by_seed_noise(tmp_path: Path) -> None:
    folder = tmp_path / "box"
    found = table(folder, records(folder, TWO, without="far"))
    assert ranks(found)["far"] == Rank(3, False)
    (paired,) = found.paired.values()
    assert (paired.parts, paired.paired) == (3, 2)
    text = texts(read(folder))["segmentation.md"]
    assert "Ranks by mIoU of the 2 rows that have kept their images" in text
    assert "Seed noise of mIoU: sd 0.14" in text


def test_a_file_that_was_removed_leaves_seed_noise(tmp_path: Path) -> None:
    folder = tmp_path / "box"
    found = records(folder, {"best": [50], "far": [-60]})
    for path in (folder / images.FOLDER).iterdir():
        path.unlink()
    after = table(folder, found)
    assert ranks(after) == {"best": Rank(1, False), "far": Rank(2, False)}
    assert [paired.paired for paired in after.paired.values()] == [0]
    assert "Seed noise of mIoU is unknown" in texts(read(folder))["segmentation.md"]


def test_a_file_that_was_changed_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "box"
    write(folder, records(folder, {"best": [51]}))
    (path,) = (folder / images.FOLDER).iterdir()
    path.write_bytes(b"something else")
    with pytest.raises(UserError, match=path.name):
        read(folder)


def test_models_on_other_images_are_not_paired(tmp_path: Path) -> None:
    folder = tmp_path / "box"
    found = records(folder, {"best": [53]}) + records(folder, {"far": [-63]}, first=7)
    after = table(folder, found)
    assert [paired.paired for paired in after.paired.values()] == [0]
    assert ranks(after)["far"] == Rank(2, False)


def test_many_seeds_speak_for_themselves(tmp_path: Path) -> None:
    folder = tmp_path / "box"
    gains = {"best": [60, 61, 62, 63, 64, 65], "close": [40, 41, 42, 43, 44, 45]}
    found = table(folder, records(folder, gains))
    assert ranks(found) == {"best": Rank(1, False), "close": Rank(2, False)}
    assert "and their 6 seeds or more cannot tell them apart" in texts(read(folder))["segmentation.md"]


def test_few_seeds_beside_many_are_ranked_by_seed_noise_and_the_text_says_which(tmp_path: Path) -> None:
    folder = tmp_path / "box"
    found = table(folder, records(folder, {"best": [60, 61, 62, 63, 64, 65], "close": [40]}))
    assert ranks(found) == {"best": Rank(1, False), "close": Rank(2, False)}
    text = texts(read(folder))["segmentation.md"]
    assert "seed noise (sd 0.19, 5 degrees of freedom; between rows of 6 seeds or more, their own)" in text


def test_compare_claims_by_images_and_says_so(tmp_path: Path) -> None:
    """A row that costs more and is worse by less than may be claimed is near the front; otherwise it is off it."""
    folder = tmp_path / "box"
    write(folder, records(folder, TWO))
    found = compare(folder, cost="params_m")
    (section,) = found.sections
    standing = {point.fields["backbone"]: (str(point.rank), point.pareto, point.near) for point in section.points}
    assert standing == {"best": ("1", True, False), "close": ("2", False, False), "far": ("3", False, False)}
    paired = {"parts": 3, "paired": 3, "pictures": (N, N), "seeds": (2, 2)}
    assert found.as_json()[0]["paired"] == {"short": paired}
    from rich.console import Console

    with (console := Console(width=300)).capture() as shown:
        console.print(found.render())
    said = " ".join(shown.get().split())
    assert "mIoU: rows share a rank when a paired bootstrap over the 40 images (2000 samples)" in said
    write(folder, records(folder, {"best": [45, 57], "close": [36, 46]}))
    (section,) = compare(folder, cost="params_m").sections
    standing = {point.fields["backbone"]: (str(point.rank), point.pareto, point.near) for point in section.points}
    assert standing == {"best": ("1=", True, False), "close": ("1=", False, True)}
