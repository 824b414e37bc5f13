"""What models learn from: faults that a review found, each as a test that failed before it was mended."""

from dataclasses import replace

import pytest
import torch
from timm.layers import DropPath
from torchvision.ops import StochasticDepth

import bench
from backbones.contract import Level, Unsupported
from backbones.parameters import layers
from backbones.stochastic import set_drop_path
from bench import catalogue, run
from bench.plan import matrix
from bench.plan.dataset import Roots
from bench.plan.recipe import Recipe
from bench.report.rows import gather
from bench.store.store import Store
from bench.training.optim import in_training_mode
from heads import fcos
from heads.contract import Boxes
from tests.bench.test_run import HERE, Launcher, go

LEVELS = (Level(4, 8), Level(8, 16), Level(16, 32), Level(32, 64))


def test_objects_of_a_small_scene_are_shared_out_among_the_levels_of_fcos_pico():
    """Published ranges put all of a scene of 128 px on stride 8: those end at 64 px from a location to a side."""
    head = fcos.build("fcos_pico", levels=LEVELS, classes=3)
    boxes = torch.tensor([[2.0, 2, 14, 14], [80, 4, 124, 40], [4, 4, 124, 124]])
    truth = Boxes(boxes, torch.zeros(3, dtype=torch.long), ignore=torch.zeros(3, dtype=torch.bool))
    squares = head.anchors((128, 128), torch.device("cpu"))
    matched: list[torch.Tensor] = []

    def keep(targets, outputs, anchors, found):
        matched.extend(found)
        return {"loss": outputs["cls_logits"].sum() * 0}

    head.detector.head.compute_loss = keep
    locations = sum(map(len, squares))
    raw = {
        "size": (128, 128),
        "logits": torch.zeros(1, locations, 3),
        "regression": torch.zeros(1, locations, 4),
        "centerness": torch.zeros(1, locations, 1),
    }
    head.loss(raw, [truth])
    counts = [int((level >= 0).sum()) for level in matched[0].split([len(level) for level in squares])]
    assert counts[0] > 0
    assert counts[1] > 0, f"all on stride 8: {counts}"
    assert counts[2] > 0, f"none on stride 32: {counts}"


def test_a_box_is_found_where_it_was_learnt_whatever_the_square():
    head = fcos.build("fcos_pico", levels=LEVELS, classes=1)
    squares = torch.cat(head.anchors((64, 64), torch.device("cpu")))
    box = torch.tensor([[8.0, 12.0, 40.0, 44.0]])
    coded = head.detector.box_coder.encode(squares, box.expand(len(squares), 4))
    torch.testing.assert_close(head.detector.box_coder.decode(coded, squares), box.expand(len(squares), 4))


@pytest.mark.parametrize("classes", [2, 9])
def test_segmenter_can_be_sure_of_a_few_classes(classes):
    head = bench.build("vit_pico", "segmenter_pico", size=(32, 32), classes=classes).head
    norm = head.mask_norm
    with torch.no_grad():
        cosines = torch.full((1, 1, classes), -0.2)
        cosines[..., 0] = 0.8
        confidence = float(norm(cosines).softmax(-1).max())
    assert confidence > 0.95


def test_eomt_weighs_classes_as_all_others_do():
    torch.manual_seed(0)
    model = bench.build("vit_pico", "eomt_pico", size=(32, 32), classes=3).train()
    raw = model(torch.rand(2, 3, 32, 32))
    target = torch.randint(3, (2, 32, 32))
    losses = []
    for weights in ([1.0, 1.0, 1.0], [5.0, 0.5, 0.1]):
        model.head.set_class_weights(torch.tensor(weights))
        torch.manual_seed(1)
        losses.append(model.loss(raw, target).item())
    assert losses[0] != pytest.approx(losses[1], rel=1e-3)
    assert "class_weights" not in " ".join(model.state_dict())


def test_deit3_starts_its_branches_as_its_authors_do():
    with torch.device("meta"):
        model = bench.build("deit3_small", "linear", size=(32, 32), classes=2)
    scale = model.backbone.transformer.blocks[0].ls1.to_empty(device="cpu")
    scale.reset_parameters()
    assert float(scale.gamma.detach()[0]) == pytest.approx(1e-4)


@pytest.mark.parametrize(
    "name", ["vit_pico", "swin_pico", "hybrid_pico", "timm:convnext_atto", "timm:resnet18", "torchvision:swin_t"]
)
def test_drop_path_is_the_recipes_choice_for_every_backbone(name):
    model = bench.build(name, "linear", size=(64, 64), classes=2)
    plan = Recipe(steps=1, batch=1, lr=1e-3)

    def rates():
        timm = [module.drop_prob for module in model.modules() if isinstance(module, DropPath)]
        return timm + [module.p for module in model.modules() if isinstance(module, StochasticDepth)]

    in_training_mode(model, plan)
    assert not any(rates()), "a recipe that states none has none"
    in_training_mode(model, plan.model_copy(update={"drop_path": 0.3}))
    found = rates()
    assert max(found) == pytest.approx(0.3)
    assert found == sorted(found), "rising from block to block"
    in_training_mode(model, plan)
    assert not any(rates())


def test_drop_path_of_what_has_no_branches_is_refused():
    model = bench.build("torchvision:resnet18", "linear", size=(64, 64), classes=2)
    with pytest.raises(Unsupported, match="drop_path = 0"):
        set_drop_path(model.backbone, 0.1)
    assert set_drop_path(model.backbone, 0.0) == 0


@pytest.mark.parametrize(
    ("backbone", "head", "weight", "count"),
    [
        ("swin_pico", "upernet_pico", 0.4, 1),
        ("vit_pico", "upernet_pico", 0.4, 1),
        ("vit_pico", "dpt_pico", 0.2, 1),
        ("vit_pico", "setr_mla_pico", 0.4, 4),
        ("hybrid_pico", "setr_mla_pico", 0.4, 3),
    ],
)
def test_an_auxiliary_head_learns_in_training_and_costs_nothing_after_it(backbone, head, weight, count):
    torch.manual_seed(0)
    model = bench.build(backbone, head, size=(64, 64), classes=3)
    before = sum(parameter.numel() for parameter in model.parameters())
    plan = Recipe(steps=1, batch=1, lr=1e-3, aux_heads=True)
    in_training_mode(model, plan)
    assert sum(parameter.numel() for parameter in model.parameters()) > before
    made = [id(parameter) for parameter in model.parameters()]
    in_training_mode(model, plan)
    assert [id(parameter) for parameter in model.parameters()] == made, "an optimiser may have them already"
    image, target = torch.rand(2, 3, 64, 64), torch.randint(3, (2, 64, 64))
    raw = model(image)
    model.loss(raw, target).backward()
    assert all(parameter.grad is not None for parameter in model.head.auxiliary.parameters())
    logits, *auxiliary = raw
    assert len(auxiliary) == count
    alone = model.loss(logits, target)
    others = sum(model.loss(one, target) for one in auxiliary)
    assert float(model.loss(raw, target).detach()) == pytest.approx(float((alone + weight * others).detach()), rel=1e-5)
    taught = {"scores": torch.randn(2, 3, 16, 16), "share": 0.5, "temperature": 1.0}
    alone = model.distil(logits, target, **taught)
    assert model.distil(raw, target, **taught) > alone, "a teacher teaches the auxiliary head, too"
    model.eval()
    assert isinstance(model(image), torch.Tensor)


def test_a_head_without_an_auxiliary_loss_in_its_paper_has_none():
    model = bench.build("vit_pico", "linear", size=(32, 32), classes=2)
    assert model.head.set_auxiliary() is False


def test_an_earlier_revision_is_trained_anew_and_told_apart_in_tables(tmp_path, monkeypatch):
    axes = {"backbone": ["vit_pico"], "patch": ["16"], "resolution": ["32"], "head": ["fcos_pico"], "seed": ["0"]}
    asked = matrix.load("default").override({**axes, "measure": ["accuracy", "complexity"]})
    Launcher(monkeypatch)
    store = Store(tmp_path / "m")
    go(asked, store, tmp_path)
    assert run.plan(asked, HERE, store, Roots()).todo == []
    entry = catalogue.get("heads", "fcos_pico")
    later = {**catalogue.entries("heads"), "fcos_pico": replace(entry, facts={**entry.facts, "training_revision": 3})}
    entries = catalogue.entries
    monkeypatch.setattr(catalogue, "entries", lambda kind: later if kind == "heads" else entries(kind))
    (todo,) = [planned.job.measure.name for planned in run.plan(asked, HERE, store, Roots()).todo]
    assert todo == "accuracy", "what it costs has not changed"
    records = store.records()
    reading = gather(store.folder, records, store.environments())
    names = {str(row.fields.get("head")) for table in reading.tables for row in table.rows}
    assert "fcos_pico@2" in names
    (old,) = [row for table in reading.tables for row in table.rows if row.fields.get("head") == "fcos_pico@2"]
    assert "gmacs" in old.values, "a training of an earlier revision stands beside what it costs"


@pytest.mark.parametrize(
    ("backbone", "head", "normed"),
    [
        ("swin_pico", "fcos_pico", True),
        ("swinv2_tiny", "dpt_pico", True),
        ("timm:convnext_atto", "semantic_fpn_pico", True),
        ("torchvision:convnext_tiny", "segformer_pico", True),
        ("torchvision:swin_t", "retinanet_pico", True),
        ("swin_pico", "linear", False),  # it has a norm of its own on every level
        ("swin_pico", "upernet_pico", False),
        ("vit_pico", "fcos_pico", False),  # the transformer's last norm is on every depth
        ("torchvision:resnet18", "fcos_pico", False),
    ],
)
def test_raw_stages_are_normed_for_heads_that_do_not(backbone, head, normed):
    assert catalogue.normed({"backbone": backbone, "head": head}) is normed
    body = bench.build(backbone, head, size=(64, 64), classes=2).backbone
    assert (body.norms is not None) is normed
    with torch.no_grad():
        maps = body.eval()(torch.rand(1, 3, 64, 64))
    if normed:
        assert len(maps) == len(body.levels) == len(body.norms)
        read = [x for x, norm in zip(maps, body.norms, strict=True) if not isinstance(norm, torch.nn.Identity)]
        assert len(read) == len(maps) - (head in ("fcos_pico", "retinanet_pico")), "detectors do not read stride 4"
        for x in read:
            torch.testing.assert_close(x.mean(dim=1), torch.zeros_like(x[:, 0]), atol=1e-4, rtol=0)
            torch.testing.assert_close(x.var(dim=1, unbiased=False), torch.ones_like(x[:, 0]), atol=0.05, rtol=0)


def test_norms_of_levels_learn_as_the_last_layer_and_do_not_decay():
    body = bench.build("swin_pico", "fcos_pico", size=(64, 64), classes=2).backbone
    placed, last = layers(body)
    assert {placed[name] for name, _ in body.named_parameters() if name.startswith("norms.")} == {last}


def test_what_was_measured_without_norms_on_the_levels_goes_by_another_name(tmp_path, monkeypatch):
    axes = {"backbone": ["swin_pico"], "patch": ["4"], "resolution": ["32"], "head": ["fcos_pico"], "seed": ["0"]}
    asked = matrix.load("default").override({**axes, "measure": ["accuracy", "complexity"]})
    Launcher(monkeypatch)
    store = Store(tmp_path / "m")
    monkeypatch.setattr(catalogue, "normed", lambda fields: False)
    go(asked, store, tmp_path)
    monkeypatch.undo()
    Launcher(monkeypatch)
    todo = [planned.job.measure.name for planned in run.plan(asked, HERE, store, Roots()).todo]
    assert sorted(todo) == ["accuracy", "complexity"], "costs have changed, too"
    reading = gather(store.folder, store.records(), store.environments())
    (row,) = [row for table in reading.tables for row in table.rows]
    assert row.fields["backbone"] == "swin_pico@raw"
    assert "gmacs" in row.values, "both halves of the row have one name"


def test_boxes_of_fcos_start_at_one_stride_whatever_the_square():
    for name in ("fcos", "fcos_pico"):
        head = fcos.build(name, levels=LEVELS, classes=1)
        bias = head.detector.head.regression_head.get_parameter("bbox_reg.bias").detach()
        torch.testing.assert_close(bias * head.square, torch.ones(4))
