"""What is exported predicts what the model predicts: torch.export takes every head, decoding included."""

import io

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves

import bench
from backbones.contract import Unsupported
from bench import catalogue
from heads import detection, fixed
from heads.contract import Boxes, Head, Size
from heads.deployed import Deployed, deploy, prediction
from heads.faster_rcnn import FasterRCNN

# Of torchvision's NMS, whose shape it states by a method with a newer name.
pytestmark = pytest.mark.filterwarnings("ignore:`create_unbacked_symint` is deprecated:FutureWarning")
NAMES = list(catalogue.entries("heads"))
LIGHT = [name for name in NAMES if name.endswith("_pico") or f"{name}_pico" not in NAMES]
PICO = [name for name in catalogue.entries("backbones") if name.endswith("_pico")]
SUPPRESSING = ("fcos_pico", "retinanet_pico", "faster_rcnn_pico", "mask_rcnn_pico")
CLASSES = 5


def build(head, backbone="vit_pico", size=(64, 64), images=1, load=60, **others):
    """A model and images; of a head with NMS one that has about ``load`` boxes an image to choose from."""
    torch.manual_seed(0)
    model = bench.build(backbone, head, size=size, classes=CLASSES, **others).eval()
    image = torch.rand(images, 3, *size)
    if head in SUPPRESSING:
        canvas = model.backbone.size
        model.head.full_load(model.backbone(torch.rand(1, 3, *canvas)), canvas, load)
    return model, image


def exported(net, image):
    with torch.no_grad():
        return torch.export.export(net, (image,), strict=False)


def same(one, other, atol=1e-4):
    if isinstance(one, Tensor):
        assert torch.equal(one, other)
        return
    assert len(one) == len(other)
    for some, others in zip(one, other, strict=True):
        assert torch.equal(some.labels, others.labels)
        assert torch.allclose(some.xyxy, others.xyxy, atol=atol)
        assert torch.allclose(some.scores, others.scores, atol=1e-6)
        assert (some.masks is None) == (others.masks is None)
        assert some.masks is None or torch.equal(some.masks, others.masks)


@pytest.mark.parametrize("head", LIGHT)
def test_torch_export_takes_every_head_and_its_decoding(head):
    model, image = build(head)
    with torch.no_grad():
        raw = model(image)
        wanted = model.decode(raw, (40, 56))
    assert all(leaf is None or isinstance(leaf, Tensor) for leaf in tree_leaves(raw)), "what else has no place in ONNX"
    if head in SUPPRESSING:
        assert 5 < len(wanted[0].labels) < 100, "some are suppressed, and some of the places are padding"
    found = exported(Deployed(model, (40, 56)), image).module()(image)
    assert all(isinstance(one, Tensor) for one in found)
    same(wanted, prediction(found))


@pytest.mark.parametrize("head", ["linear", "eomt_pico", "detr_pico", *SUPPRESSING])
def test_raw_output_of_an_exported_model_is_decoded_as_that_of_the_model(head):
    """From the file of torch.export, with two images, of which the padding of two stages is left out."""
    model, image = build(head, images=2)
    file = io.BytesIO()
    torch.export.save(exported(model, image), file)
    file.seek(0)
    with torch.no_grad():
        raw, other = model(image), torch.export.load(file).module()(image)
        same(model.decode(raw, (64, 64)), model.decode(other, (64, 64)))
        same(model.decode(raw, (64, 64)), prediction(deploy(model, other, (64, 64))))
    for one, another in zip(model.head.smooth(raw), model.head.smooth(other), strict=True):
        assert torch.allclose(one, another, atol=1e-5)


@pytest.mark.parametrize("backbone", [name for name in PICO if name != "vit_pico"])
def test_torch_export_takes_every_backbone(backbone):
    model, image = build("linear", backbone)
    with torch.no_grad():
        wanted = model(image)
        assert torch.allclose(exported(model, image).module()(image), wanted, atol=1e-5)


@pytest.mark.parametrize("head", ["linear", "detr_pico", "fcos_pico", "mask_rcnn_pico"])
def test_what_lies_in_the_padding_of_an_image_is_cut_off(head):
    model, image = build(head, size=(50, 41), padding="pad", images=2)
    assert model.size != model.backbone.size
    with torch.no_grad():
        raw = model(image)
        found = deploy(model, raw, (100, 82))
        same(model.decode(raw, (100, 82)), prediction(found))
    if head == "linear":
        assert found[0].shape == (2, 100, 82)
    else:
        boxes, scores, labels, *masks = found
        assert (scores.diff(dim=1) <= 0).all()
        assert not boxes[scores == 0].any()
        assert not labels[scores == 0].any()
        assert all(one.shape[2:] == (100, 82) and not one[scores == 0].any() for one in masks)


@pytest.mark.parametrize("head", SUPPRESSING)
def test_an_image_without_an_object_is_all_padding(head):
    model, image = build(head)
    rules = model.head.roi_heads if isinstance(model.head, FasterRCNN) else model.head.detector
    rules.score_thresh = 1.0
    found = exported(Deployed(model), image).module()(image)
    with torch.no_grad():
        assert len(model.decode(model(image), (64, 64))[0].labels) == 0
    assert found[0].shape == (1, 100, 4)
    assert not any(one.any() for one in found)


def test_suppression_is_by_group_and_leaves_what_is_none_alone():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 9], [50, 50, 60, 60], [0, 0, 0, 0]])
    scores = torch.tensor([0.9, 0.8, 0.7, fixed.NONE, fixed.NONE])
    places, found = fixed.suppress(boxes, scores, torch.tensor([0, 0, 1, 0, 0]), 0.5, 4)
    assert places[:2].tolist() == [0, 2]
    assert found.tolist() == pytest.approx([0.9, 0.7, fixed.NONE, fixed.NONE])
    # A score of 0 is one: torchvision's first stage keeps it.
    _, found = fixed.suppress(boxes, torch.zeros(5), torch.arange(5), 0.5, 9)
    assert found.tolist() == [0.0] * 5


def test_beyond_the_most_candidates_the_lowest_scores_go(monkeypatch):
    monkeypatch.setattr(fixed, "CANDIDATES", 2)
    boxes = torch.tensor([[[0.0, 0, 9, 9], [20, 0, 29, 9], [40, 0, 49, 9], [60, 0, 60, 9]]])
    rules = {"score": 0.05, "smallest": 0.01, "threshold": 0.5, "most": 3}
    found = fixed.classified(boxes, torch.tensor([[0.3, 0.04, 0.5, 0.9]]), torch.tensor([[1, 2, 3, 4]]), **rules)
    assert found.labels.tolist() == [[3, 1]], "the last has no area, the second is below the threshold"
    assert found.scores.tolist() == [pytest.approx([0.5, 0.3])]


def test_a_head_without_a_way_to_be_exported_says_so():
    class Mute(Head):
        task = "detection"

        def forward(self, features, size):
            return ()

        def loss(self, raw, target):
            return torch.zeros(())

        def decode(self, raw, size):
            return [Boxes(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))]

    with pytest.raises(Unsupported, match="Mute states no decoding of fixed shapes"):
        Mute().deploy((), (8, 8))


def test_a_size_is_no_leaf():
    assert tree_leaves({"size": Size((3, 4))}) == []
    assert Size((3, 4)) == (3, 4)


def test_anchors_of_an_export_are_not_kept(monkeypatch):
    """They are fake tensors there, which the next call of the model itself could do nothing with."""
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    monkeypatch.setattr(detection, "_kept_anchors", None)
    with FakeTensorMode():
        (made,) = detection.anchors((64, 64), [32], [[(8.0, 8.0)]], torch.device("cuda"))
    assert made.shape == (4, 4)


@pytest.mark.slow
def test_runtimes_predict_what_the_model_predicts(tmp_path):
    """NMS and the pooling of places as ONNX has them, in both runtimes that read it."""
    onnxruntime, openvino = pytest.importorskip("onnxruntime"), pytest.importorskip("openvino")
    onnx = pytest.importorskip("bench.runtimes._onnx")
    pytest.importorskip("onnxscript")
    model, image = build("mask_rcnn_pico")
    file = onnx.to_onnx(Deployed(model).eval(), [image], tmp_path / onnx.FILE)
    with torch.no_grad():
        wanted = model.decode(model(image), (64, 64))
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    found = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    same(wanted, prediction(tuple(map(torch.from_numpy, found))), atol=1e-3)
    compiled = openvino.compile_model(openvino.convert_model(str(file)), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = [one.copy() for one in compiled([image.numpy()]).values()]
    same(wanted, prediction(tuple(map(torch.from_numpy, found))), atol=1e-3)
