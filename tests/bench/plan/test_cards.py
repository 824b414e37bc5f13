"""Which cards there are and which are used, from made-up answers of nvidia-smi."""

import json
import os
from dataclasses import asdict

import pytest

from bench.plan import cards, machine
from bench.plan.environment import Environment, consistent, describe
from tests.bench import smi
from tests.bench.smi import H100

L4 = "NVIDIA L4, 580.1, 23034, 72.00, Default, Disabled"
TWO = {"GPU-aa00000000": H100, "GPU-ab00000000": H100}
SLICED = {"GPU-cc00000000": "NVIDIA A100, 580.1, 40960, 400.00, Default, Enabled"}
SLICES = [
    "GPU 0: NVIDIA A100 (UUID: GPU-cc00000000)",
    "  MIG 3g.20gb     Device  0: (UUID: MIG-11000000000)",
    "  MIG 3g.20gb     Device  1: (UUID: MIG-12000000000)",
    "  MIG 1g.5gb      Device  2: (UUID: MIG-13000000000)",
]


@pytest.fixture
def box(tmp_path, monkeypatch):
    """A machine with these cards; nothing is hidden."""

    def put(found, **options):
        monkeypatch.delenv(cards.VISIBLE, raising=False)
        monkeypatch.setenv("PATH", smi.put(tmp_path / "smi", found, **options))

    return put


def used(**variables):
    return [card.uuid for card in cards.look(variables).used]


def test_without_nvidia_smi_there_is_no_card(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cards.look() == cards.Box()


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, ["GPU-aa00000000", "GPU-ab00000000"]),
        ("1", ["GPU-ab00000000"]),
        ("1,0", ["GPU-ab00000000", "GPU-aa00000000"]),
        ("GPU-ab", ["GPU-ab00000000"]),
        ("GPU-a", []),  # two begin like that
        ("", []),
        ("-1", []),
        ("0,7,1", ["GPU-aa00000000"]),  # CUDA sees none behind one that does not exist
        ("0,0", []),
    ],
)
def test_hidden_cards_are_not_used(box, visible, expected):
    box(TWO)
    assert used(**({} if visible is None else {cards.VISIBLE: visible})) == expected
    assert len(cards.look({}).there) == 2


def test_the_environment_has_the_kind_of_card_once_and_its_facts(box, monkeypatch):
    box(TWO)
    both = describe()
    assert both.gpus == ["NVIDIA H100 80GB HBM3"]
    assert (both.driver, both.gpu_memory_gib, both.gpu_power_w) == ("580.1", [79.6], [700.0])
    assert both.packages["cuda"].startswith("1")
    assert consistent(both)
    monkeypatch.setenv(cards.VISIBLE, "1")
    assert describe().comparable == both.comparable, "which of equal cards, and how many, is all the same"
    box({"GPU-aa00000000": H100.replace("700", "500")})
    assert describe().comparable != both.comparable, "another power limit is another card"


def test_a_hidden_gpu_leaves_a_cpu_machine(box, monkeypatch):
    before = describe()
    box(TWO)
    monkeypatch.setenv(cards.VISIBLE, "")
    assert describe().comparable == before.comparable


def test_an_environment_of_before_keeps_its_digest():
    line = (
        '{"id":"97a99f9a2fdd","comparable":"9cca18318c34","cpu":"AMD EPYC","cores":2,"memory_gib":23.5,"gpus":[],'
        '"dtypes":["fp32"],"variables":{},"system":"Linux x86_64","python":"3.11.7","packages":{"torch":"2.15.0",'
        '"torchvision":"0.29.2","timm":"1.0.31","numpy":"2.4.6","segmentation-models-pytorch":"0.6.0",'
        '"faster-coco-eval":"1.8.0"},"git":"71fbf96502c3"}'
    )
    assert consistent(Environment(**json.loads(line)))


def test_two_kinds_in_a_box_never_mix(box, monkeypatch):
    box({"GPU-dd00000000": L4, **TWO})
    found = cards.look({})
    assert [card.uuid for card in found.used] == list(TWO), "those with more memory"
    assert found.says() == (
        "cells run on 2 x NVIDIA H100 80GB HBM3 (79.6 GiB, 700 W), for one run has one kind of GPU: "
        "CUDA_VISIBLE_DEVICES=GPU-dd000000 takes 1 x NVIDIA L4 (22.5 GiB, 72 W)"
    )
    assert describe().gpus == ["NVIDIA H100 80GB HBM3"]
    monkeypatch.setenv(cards.VISIBLE, "0,1")
    assert describe().gpus == ["NVIDIA L4"], "that which is named first"
    monkeypatch.setenv(cards.VISIBLE, "GPU-dd")
    assert cards.look().says() == ""


def test_slices_are_cards_of_their_own_and_named_by_their_profile(box):
    box(SLICED, listed=SLICES)
    found = cards.look({})
    assert [card.model for card in found.used] == ["NVIDIA A100 MIG 3g.20gb"] * 2
    assert {card.board for card in found.there} == {"GPU-cc00000000"}
    assert describe().gpu_memory_gib == [20.0]
    assert used(CUDA_VISIBLE_DEVICES="MIG-13") == ["MIG-13000000000"]
    assert used(CUDA_VISIBLE_DEVICES="0") == ["MIG-11000000000"], "of a sliced GPU CUDA takes the first"


def test_cards_that_no_process_may_use_are_none(box):
    box({**TWO, "GPU-aa00000000": H100.replace("Default", "Prohibited")})
    assert used() == ["GPU-ab00000000"]


def test_a_card_of_one_process_says_so(box):
    box({"GPU-aa00000000": H100.replace("Default", "Exclusive_Process")})
    assert [card.lone for card in cards.look({}).used] == [True]


def test_an_old_driver_that_knows_no_slices_and_a_board_that_tells_nothing(box):
    box({"GPU-aa00000000": "Tesla K80, 418.1, [N/A], [N/A], Default, none"}, new=False)
    (card,) = cards.look({}).used
    assert (card.model, card.memory_gib, card.power_limit_w) == ("Tesla K80", None, None)
    found = describe()
    assert (found.driver, found.gpu_memory_gib, found.gpu_power_w) == ("418.1", [], [])
    assert consistent(found)
    assert consistent(Environment(**json.loads(json.dumps(asdict(found)))))


def test_free_memory_is_a_share_and_unknown_of_slices(box):
    box(TWO, free={"GPU-aa00000000": "20000, 80000"})
    first, second = cards.look({}).used
    assert cards.free(first) == 0.25
    assert cards.free(second) is None, "it does not answer"
    box(SLICED, listed=SLICES)
    assert cards.free(cards.look({}).used[0]) is None


def test_cpus_are_all_where_the_system_does_not_tell(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 1}, raising=False)
    assert machine.cpus() == [1, 3]
    monkeypatch.delattr(os, "sched_getaffinity")  # as on macOS
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    assert machine.cpus() == [0, 1, 2, 3]
