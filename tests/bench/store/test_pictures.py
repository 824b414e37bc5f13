"""Names of pictures."""

from bench.store import pictures
from tests.bench.records import CELL


def test_a_name_says_what_is_unusual_and_is_a_file_name_everywhere() -> None:
    assert pictures.name(CELL) == "scenes_vit_pico_p16_linear_128x128_short_seed0.png"
    unusual = {"weights": "/data/my weights.pth", "dtype": "bf16", "dataset": "voc:bccd", "recipe": "probe+steps=5"}
    expected = "voc-bccd_vit_pico_p16_linear_128x128_my-weights.pth_bf16_probe+steps=5_seed0.png"
    assert pictures.name({**CELL, **unusual}) == expected
