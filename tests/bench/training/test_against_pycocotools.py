"""All figures of detections are pycocotools', whatever the pictures are like."""

import numpy as np
import pytest

from bench.stats.precision import Detections
from bench.training.box_metrics import BoxMetrics
from tests.bench.training import coco_reference as reference

CASES = {
    "as usual": {},
    "one class": {"classes": 1},
    "no object": {"objects": 0},
    "nothing found": {"detections": 0},
    "neither": {"objects": 0, "detections": 0},
    "all ignored": {"ignored": 1.0},
    "none ignored": {"ignored": 0.0},
    "more than a hundred of a class": {"classes": 1, "detections": 300, "count": 5},
    "equal scores": {"ties": True},
}


def collected(images, classes) -> Detections:
    metrics = BoxMetrics([str(number) for number in range(classes)])
    for truth, found in images:
        metrics.add(truth, found)
    return metrics.result()


def agree(found: Detections, prefix: str, wanted: dict[str, float]) -> None:
    ours = {name: found.figure(prefix + name) for name in wanted}
    plain = {name: -100.0 if np.isnan(value[0]) else float(value[0]) for name, value in ours.items()}
    assert plain == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("case", CASES)
def test_boxes(case, seed):
    asked = CASES[case]
    classes = asked.get("classes", 3)
    images = reference.images(np.random.default_rng(seed), **asked)
    found = collected(images, classes)
    agree(found, "", reference.pycocotools(images, classes))
    stated = reference.pycocotools(images, classes, stated=True)
    agree(found, "coco_", {name: stated[name] for name in ("ap_small", "ap_medium", "ap_large")})
    if case == "as usual":
        assert len({*stated.values()}) == len(stated), "all figures differ, so none can stand for another"


@pytest.mark.parametrize("case", ["as usual", "all ignored", "equal scores", "nothing found"])
def test_masks(case):
    images = reference.images(np.random.default_rng(7), masks=True, **CASES[case])
    found = collected(images, 3)
    agree(found, "mask_", reference.pycocotools(images, 3, masks=True))
    stated = reference.pycocotools(images, 3, masks=True, stated=True)
    sizes = ("small", "medium", "large")
    agree(found, "coco_mask_", {f"ap_{size}": stated[f"ap_{size}"] for size in sizes})


def test_objects_of_equal_overlap_are_taken_as_there():
    """Two objects at one place, and a detection for each: which of them is taken decides what is left for the next."""
    images = reference.images(np.random.default_rng(5), count=6)
    doubled = []
    for truth, found in images:
        twice = [np.concatenate([part, part]) for part in (truth.boxes, truth.labels, truth.areas)]
        ignore = np.concatenate([truth.ignore, ~truth.ignore])
        doubled.append((type(truth)(truth.size, None, twice[0], twice[1], ignore, areas=twice[2]), found))
    agree(collected(doubled, 3), "", reference.pycocotools(doubled, 3))


def test_a_sample_of_images_is_worth_what_pycocotools_says_of_the_pictures_repeated():
    images = reference.images(np.random.default_rng(11), count=10)
    found = collected(images, 3)
    random = np.random.default_rng(0)
    samples = [np.sort(random.integers(0, len(images), len(images))) for _ in range(4)]
    weights = np.array([np.bincount(sample, minlength=len(images)) for sample in samples])
    for index, sample in enumerate(samples):
        wanted = reference.pycocotools([images[number] for number in sample], 3)
        for name, value in wanted.items():
            ours = found.figure(name, weights)
            assert (-100.0 if np.isnan(ours[index]) else ours[index]) == pytest.approx(value, abs=1e-6), name
