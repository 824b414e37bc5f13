"""What a short, seeded training run reaches: mIoU, or AP of boxes and masks, on the validation split."""

import copy
import hashlib
import math
from dataclasses import asdict, replace

import numpy as np
import torch

from backbones.contract import Unsupported
from bench import catalogue
from bench.data.contract import Dataset, Split, Truth
from bench.errors import UserError
from bench.model import build, deployment, kept, modes, trained
from bench.plan import models, weights
from bench.plan import source as sources
from bench.plan.case import Case
from bench.plan.cell import SILENT, Cell, agrees
from bench.plan.measure import (
    IMAGES,
    IMAGES_LOST,
    LIMIT,
    MODEL,
    MODEL_LOST,
    RESUMED,
    TEACHER,
    TRAINED,
    TRAINING,
    UNREPEATABLE,
    UNSUITED,
    Context,
    Outcome,
    Value,
)
from bench.plan.recipe import Recipe, unsuited
from bench.stats.bootstrap import Replicates, of_one_training
from bench.stats.overlap import Overlaps
from bench.stats.precision import Detections
from bench.stats.resample import resamples
from bench.store import images as store
from bench.store import pictures, states
from bench.store.features import FeatureStore, bound
from bench.training.box_metrics import BoxMetrics
from bench.training.checks import Checks, PairAccuracy
from bench.training.distill import TeacherModel, check
from bench.training.features import FeatureSource, cacheable
from bench.training.label_metrics import LabelMetrics
from bench.training.loader import workers_for
from bench.training.pictures import draw
from bench.training.predict import frame, predictions
from bench.training.state import Checkpoint
from bench.training.train import train
from heads.contract import Boxes, Model

CATALOGUE = {
    "accuracy": {
        "version": 1,
        "fields": ["@model", "@runtime", "dtype", "attention", "device", "recipe", "seed", "resample"],
        "exclusive": False,
        "seconds": 25.0,
        "columns": [
            {
                "name": "miou",
                "unit": "%",
                "title": "mIoU",
                "better": "higher",
                "task": "segmentation",
                "headline": True,
            },
            {
                "name": "foreground_miou",
                "unit": "%",
                "title": "foreground mIoU",
                "better": "higher",
                "task": "segmentation",
            },
            {
                "name": "pixel_accuracy",
                "unit": "%",
                "title": "pixel accuracy",
                "better": "higher",
                "task": "segmentation",
            },
            {
                "name": "miou_small",
                "unit": "%",
                "title": "mIoU small",
                "better": "higher",
                "task": "segmentation",
                "note": "mIoU small, medium and large: of the connected components of each class that take up less "
                "than 0.33 %, less than 3 %, and more of the picture. A hit or a miss counts in the size of the "
                "component of the truth that it lies on, a false alarm in that of the component of the prediction. The "
                "background is left out, and so is a class that has no truth of a size.",
            },
            {
                "name": "miou_medium",
                "unit": "%",
                "title": "mIoU medium",
                "better": "higher",
                "task": "segmentation",
            },
            {
                "name": "miou_large",
                "unit": "%",
                "title": "mIoU large",
                "better": "higher",
                "task": "segmentation",
            },
            {
                "name": "boundary_miou",
                "unit": "%",
                "title": "boundary mIoU",
                "better": "higher",
                "task": "segmentation",
                "note": "Boundary mIoU (Cheng et al. 2021): of the pixels of each mask that are within 2 % of the "
                "picture's diagonal of its contour (fine boundary mIoU, in the CSV: 0.5 %).",
            },
            {
                "name": "fine_boundary_miou",
                "unit": "%",
                "title": "fine boundary mIoU",
                "better": "higher",
                "task": "segmentation",
                "table": False,
            },
            {
                "name": "pair_accuracy",
                "unit": "%",
                "title": "pair accuracy",
                "better": "higher",
                "task": "segmentation",
                "table": False,
                "note": "Pair accuracy: of two classes of scenes that look the same, how often the right one is found "
                "where either is; 50 % is a guess.",
            },
            {
                "name": "solved_step",
                "unit": "steps",
                "title": "solved after",
                "better": "lower",
                "digits": 0,
                "task": "segmentation",
                "note": "Solved after: the steps of training at which the pair of classes that look the same was first "
                "told apart as often as the recipe asks (`until`).",
            },
            {"name": "class_iou", "unit": "%", "title": "IoU", "better": "higher", "table": False},
            {"name": "ap", "unit": "%", "title": "AP", "better": "higher", "task": "detection", "headline": True},
            {"name": "ap50", "unit": "%", "title": "AP50", "better": "higher", "task": "detection"},
            {"name": "ap75", "unit": "%", "title": "AP75", "better": "higher", "task": "detection"},
            {
                "name": "ap_small",
                "unit": "%",
                "title": "AP small",
                "better": "higher",
                "task": "detection",
                "note": "AP small, medium and large: of objects whose box (for masks: whose mask) takes up less than "
                "0.33 %, less than 3 %, and more of the picture, which is what COCO's areas are in one of 640x480.",
            },
            {"name": "ap_medium", "unit": "%", "title": "AP medium", "better": "higher", "task": "detection"},
            {"name": "ap_large", "unit": "%", "title": "AP large", "better": "higher", "task": "detection"},
            {
                "name": "coco_ap_small",
                "unit": "%",
                "title": "COCO AP small",
                "better": "higher",
                "task": "detection",
                "note": "COCO AP small, medium and large: by the area that the annotations state (of the mask, where "
                "there is one), under 32², under 96² pixels, and above, as COCO's own evaluation has it.",
            },
            {"name": "coco_ap_medium", "unit": "%", "title": "COCO AP medium", "better": "higher", "task": "detection"},
            {"name": "coco_ap_large", "unit": "%", "title": "COCO AP large", "better": "higher", "task": "detection"},
            {"name": "ar_1", "unit": "%", "title": "AR 1", "better": "higher", "task": "detection", "table": False},
            {"name": "ar_10", "unit": "%", "title": "AR 10", "better": "higher", "task": "detection", "table": False},
            {"name": "ar_100", "unit": "%", "title": "AR 100", "better": "higher", "task": "detection"},
            {"name": "class_ap", "unit": "%", "title": "AP", "better": "higher", "table": False},
            {"name": "mask_ap", "unit": "%", "title": "mask AP", "better": "higher", "task": "detection"},
            {"name": "mask_ap50", "unit": "%", "title": "mask AP50", "better": "higher", "task": "detection"},
            {"name": "mask_ap75", "unit": "%", "title": "mask AP75", "better": "higher", "task": "detection"},
            {"name": "mask_ap_small", "unit": "%", "title": "mask AP small", "better": "higher", "task": "detection"},
            {"name": "mask_ap_medium", "unit": "%", "title": "mask AP medium", "better": "higher", "task": "detection"},
            {"name": "mask_ap_large", "unit": "%", "title": "mask AP large", "better": "higher", "task": "detection"},
            {
                "name": "coco_mask_ap_small",
                "unit": "%",
                "title": "COCO mask AP small",
                "better": "higher",
                "task": "detection",
                "table": False,
            },
            {
                "name": "coco_mask_ap_medium",
                "unit": "%",
                "title": "COCO mask AP medium",
                "better": "higher",
                "task": "detection",
                "table": False,
            },
            {
                "name": "coco_mask_ap_large",
                "unit": "%",
                "title": "COCO mask AP large",
                "better": "higher",
                "task": "detection",
                "table": False,
            },
            {
                "name": "mask_ar_1",
                "unit": "%",
                "title": "mask AR 1",
                "better": "higher",
                "task": "detection",
                "table": False,
            },
            {
                "name": "mask_ar_10",
                "unit": "%",
                "title": "mask AR 10",
                "better": "higher",
                "task": "detection",
                "table": False,
            },
            {
                "name": "mask_ar_100",
                "unit": "%",
                "title": "mask AR 100",
                "better": "higher",
                "task": "detection",
                "table": False,
            },
            {
                "name": "deployment_loss",
                "signed": True,
                "unit": "%",
                "title": "deployment loss",
                "better": "lower",
                "digits": 2,
                "note": "Deployment loss, with its interval (from, to): by how much mIoU, or AP, is below that of the "
                "same weights in fp32 in torch; what is exported or quantised is evaluated as it is deployed, image by "
                "image. The interval (95 %) is of the difference on the same images.",
            },
            {
                "name": "deployment_loss_low",
                "signed": True,
                "unit": "%",
                "title": "loss from",
                "better": "lower",
                "digits": 2,
            },
            {
                "name": "deployment_loss_high",
                "signed": True,
                "unit": "%",
                "title": "loss to",
                "better": "lower",
                "digits": 2,
            },
            {"name": "train_s", "unit": "s", "title": "training", "better": "lower", "digits": 0, "table": False},
            {"name": "data_wait_pct", "unit": "%", "title": "waited for data", "better": "lower", "table": False},
        ],
    }
}


def measure(cell: Cell, context: Context) -> Outcome:
    """Train by the cell's recipe and evaluate the last weights on the validation split at ground-truth resolution.

    The evaluated artifact is the one that latency and memory time: weights cast to the cell's dtype. Predictions are
    mapped to the size of the ground truth, whatever size went in, so rows of several input sizes share one truth.
    Training and evaluation are eager: a compiled row shows the accuracy of the same weights, run eagerly. In another
    runtime than torch the exported artifact is evaluated, image by image, with the weights that the same cell in torch,
    unquantised, is trained to: a training is made once for all of them.

    Columns:
        miou: mean over classes of the intersection over union of pixels, pooled over the images.
        foreground_miou: the same without the background class.
        pixel_accuracy: share of the labelled pixels whose class is right.
        miou_small: mIoU of connected components below 0.33 % of the picture.
        miou_medium: of those from there to 3 %.
        miou_large: of larger ones.
        boundary_miou: mIoU of the pixels within 2 % of the picture's diagonal of a mask's contour.
        fine_boundary_miou: of those within 0.5 %.
        pair_accuracy: of two classes that look the same, how often the right one is found where either is.
        solved_step: steps of training at which the pair was first told apart as often as the recipe asks; unknown
            where it never was.
        class_iou: intersection over union of each class.
        ap: COCO's average precision of boxes, over IoU thresholds from 0.5 to 0.95 and classes.
        ap50: at IoU 0.5.
        ap75: at IoU 0.75.
        ap_small: AP of objects whose box is below 0.33 % of the picture.
        ap_medium: of those from there to 3 %.
        ap_large: of larger ones.
        coco_ap_small: AP of objects whose annotated area is below 32 x 32 pixels.
        coco_ap_medium: of those from there to 96 x 96 pixels.
        coco_ap_large: of larger ones.
        ar_1: average recall with the one best detection an image.
        ar_10: with ten.
        ar_100: with a hundred.
        class_ap: AP of each class.
        mask_ap: AP of instance masks.
        mask_ap50: at IoU 0.5.
        mask_ap75: at IoU 0.75.
        mask_ap_small: of masks below 0.33 % of the picture.
        mask_ap_medium: of those from there to 3 %.
        mask_ap_large: of larger ones.
        coco_mask_ap_small: of annotated areas below 32 x 32 pixels.
        coco_mask_ap_medium: of those from there to 96 x 96 pixels.
        coco_mask_ap_large: of larger ones.
        mask_ar_1: average recall of masks with one detection an image.
        mask_ar_10: with ten.
        mask_ar_100: with a hundred.
        deployment_loss: by how much mIoU, or AP, is below that of the same weights in fp32 in torch; unknown of these.
        deployment_loss_low: lower end of its 95 % interval, of a paired bootstrap over images; of seeds their mean.
        deployment_loss_high: upper end.
        train_s: seconds of the whole training, however often it was cut off.
        data_wait_pct: share of the training, from its second step on, that went by in waiting for a batch.

    Samples:
        loss: of every step.
        checked_step: steps after which the recipe had the model looked at.
        checked_pair_pct: the pair accuracy at each of them, in percent.
    """
    case, device = context.case, build.device_of(cell)
    plan = case.recipe
    way = deployment.of(cell, context)
    modes.set_precision(cell, device)
    context.report("reading data", 0, 1)
    val = case.split("val")
    if case.root is not None:
        # A broken file is found now and not after the training.
        for index in range(min(len(val), plan.val_images or len(val))):
            frame(val, plan, cell.size, index)
    made = trained.once(lambda: _train(context, val), context)
    values = {**made.found.values, **_model(made.net, context)}
    if made.digest:
        values[TRAINING] = made.digest
    ready = way.ready(made.net, context)
    found, told = evaluate(ready.net, val, plan, cell, context, batch=ready.batch)
    values |= figures(found) | told | _kept(found, context)
    if way.plain:
        if cell.dtype == "fp32":
            trained.see(made, found.arrays(), context)
    else:
        values |= ready.said | _loss(found, made, val, context)
    return Outcome(values, made.found.samples)


def _train(context: Context, val: Dataset) -> trained.Training:
    """What the training of a case comes to, whatever executes its model afterwards."""
    case = context.case
    cell, plan, device = case.cell, case.recipe, build.device_of(case.cell)
    data = case.split("train")
    teacher = _teacher(context, data)
    checks = _checks(case, val, workers=workers_for(device, context.threads))
    net = build.of_case(case).to(device)
    source = _features(case, net, data, "train", dtype=modes.DTYPES[cell.dtype])
    done = train(
        net,
        data,
        plan,
        size=cell.size,
        dtype=modes.DTYPES[cell.dtype],
        device=device,
        seed=cell.seed,
        report=context.report,
        workers=workers_for(device, context.threads),
        source=source,
        checkpoint=_checkpoint(context, data),
        teacher=None if teacher is None else TeacherModel(kept.of(teacher), device),
        checks=checks,
    )
    if source is not None:
        source.close()
    waited = None if done.waited is None else 100 * done.waited
    values: dict[str, Value] = {"train_s": done.seconds, "data_wait_pct": waited, TRAINED: plan.in_words()}
    if done.resumed is not None:
        values[RESUMED] = done.resumed
    values |= unrepeatable(device)
    if teacher is not None:
        values[TEACHER] = teacher.digest
    if why := unsuited(plan, cell.weights):
        values[UNSUITED] = why
    samples = {"loss": done.losses}
    if checks is not None:
        if plan.until is not None:
            values |= {"solved_step": checks.solved, LIMIT: plan.steps}
        looks = [(step, found) for step, found in checks.seen if found is not None]
        samples |= {"checked_step": [float(step) for step, _ in looks], "checked_pair_pct": [one for _, one in looks]}
    return trained.Training(net, Outcome(values, samples))


def _loss(found: Overlaps | Detections, made: trained.Training, val: Dataset, context: Context) -> dict[str, Value]:
    """By how much the headline falls short of that of the same weights in float32 in torch, on the same images."""
    case = context.case
    column = "miou" if case.task == "segmentation" else "ap"
    before = trained.seen(made, context)
    if before is None:
        cell = replace(trained.plain(case).cell, dtype="fp32")
        device = build.device_of(cell)
        modes.set_precision(cell, device)
        net = modes.for_inference(copy.deepcopy(made.net), cell, device)
        context.report("evaluation in fp32", 0, 1)
        wanted, _ = evaluate(net, val, case.recipe, cell, replace(context, pictures=None))
        trained.see(made, wanted.arrays(), context)
    else:
        wanted = type(found).from_arrays(before)
    lost = of_one_training(_figure(wanted, column), _figure(found, column))
    names = ("deployment_loss", "deployment_loss_low", "deployment_loss_high")
    numbers = (lost.value, lost.low, lost.high)
    # A pixel of a thousand images weighs more than the sixth decimal, which is how sums are rounded.
    return {name: round(one, 6) if math.isfinite(one) else None for name, one in zip(names, numbers, strict=True)}


def _figure(found: Overlaps | Detections, column: str) -> Replicates:
    """A headline on all images, and on samples of them."""
    whole, drawn = found.figure(column), found.figure(column, resamples(len(found.images)))
    assert whole is not None, "the headline of its task"
    assert drawn is not None, "likewise"
    return Replicates(whole, drawn[None])


def unrepeatable(device: torch.device) -> dict[str, Value]:
    """What is said of a training that would not come out the same again; nothing of one that would."""
    if device.type == "cpu":
        return {}
    why = "sums are added up in another order each time"
    return {UNREPEATABLE: f"on {device.type} {why}: the same seed again gives nearly this, and not to the bit"}


def evaluate(
    net: Model, val: Dataset, plan: Recipe, cell: Cell, context: Context, *, batch: int | None = None
) -> tuple[Overlaps | Detections, dict[str, Value]]:
    """What a model finds in every image of a validation split, and figures that do not follow from that.

    batch: images that the model takes at a time; None: as many as is quick.
    """
    labels, boxes = LabelMetrics(val.classes, val.background), BoxMetrics(val.classes)
    pair = None if val.pair is None else PairAccuracy(val.pair)
    count = min(len(val), plan.val_images or len(val))
    drawn: list[tuple[np.ndarray, Truth, np.ndarray | Boxes]] = []
    done = 0
    workers = workers_for(build.device_of(cell), context.threads)
    plain = agrees(cell, SILENT)  # a runtime takes images, and what is quantised makes other features
    source = _features(context.case, net, val, "val") if plain else None
    seen = predictions(net, val, plan, size=cell.size, count=count, workers=workers, source=source, batch=batch)
    for images, truths, prediction in seen:
        for row, (image, truth) in enumerate(zip(images, truths, strict=True)):
            found = prediction[row].cpu() if isinstance(prediction, torch.Tensor) else prediction[row]
            if isinstance(found, torch.Tensor):
                labels.add(truth, found.numpy())
                if pair is not None and truth.mask is not None:
                    pair.add(truth.mask, found.numpy())
            else:
                boxes.add(truth, found)
            # Spread over the split: neighbouring frames of a video would all look alike.
            if len(drawn) < plan.pictures and done + row == len(drawn) * max(1, count // max(1, plan.pictures)):
                drawn.append((image, truth, found.numpy() if isinstance(found, torch.Tensor) else found))
        done += len(images)
        context.report("evaluation", done, count)
    if source is not None:
        source.close()
    if drawn and context.pictures is not None:
        photographs = bool(context.case.data.facts["redistributable"])
        path = context.pictures / pictures.name(asdict(cell))
        try:
            draw(drawn, val, path, photographs=photographs)
        except OSError as error:  # a picture is worth less than what was trained for it
            # The folder and not the file: the same sentence of every cell, which a run shows once.
            context.say(f"prediction pictures cannot be written to {path.parent} ({error.strerror or error})")
    found = boxes.result() if val.task == "detection" else labels.result()
    return found, {} if pair is None else {"pair_accuracy": pair.result()}


def _checks(case: Case, val: Dataset, *, workers: int) -> Checks | None:
    """The looks that a recipe asks for.

    Raises:
        Unsupported: the data set has no pair of classes to look at.
    """
    if case.recipe.check_every is None:
        return None
    if val.pair is None:
        raise Unsupported(
            f"recipe {case.cell.recipe} looks at how often two classes of a segmentation that look the same are told "
            f"apart (check_every), and {case.cell.dataset} has no such classes for {case.task}; take "
            "scenes:distance=0.2 and a segmentation head, or leave check_every out",
            axes=("dataset", "recipe"),
        )
    return Checks(val, case.recipe, size=case.cell.size, workers=workers)


def _features(
    case: Case, net: Model, data: Dataset, split: Split, dtype: torch.dtype = torch.float32
) -> FeatureSource | None:
    """Kept features of a split, where the recipe freezes the backbone and nothing of an image is drawn but mirrors."""
    plan, limit = case.recipe, bound()
    if not cacheable(plan, net) or plan.windows or not limit:
        return None
    return FeatureSource(
        net, data, frozen_key(case, data, split), FeatureStore(case.cache / "features", limit), autocast=dtype
    )


def frozen_key(case: Case, data: Dataset, split: Split) -> dict[str, Value | list[str]]:
    """All that decides what a frozen backbone makes of a split, but for levels, number formats and libraries."""
    cell, plan = case.cell, case.recipe
    named = weights.digest(case.backbone, cell.weights, case.cache, case.trained)
    revisions = catalogue.training_revisions({"backbone": cell.backbone})
    made = "".join(f", source {text}" for text in sources.said({"backbone": cell.backbone}).values())
    return {
        "backbone": f"{cell.backbone} revision {revisions.get('backbone', 1)}{made}",
        "weights": f"seed {cell.seed}" if named is None else named,
        "patch": cell.patch,
        "size": f"{cell.height}x{cell.width}",
        "resample": cell.resample,
        "window": cell.window,
        "padding": cell.padding,
        "attention": cell.attention,
        "device": torch.device(cell.device).type,
        "dataset": f"{cell.dataset} version {case.data.facts.get('version', 1)}, {case.task}, {split}",
        "files": _files(data),
        "meet": plan.meet,
        "pipeline": plan.pipeline,
    }


def _files(data: Dataset) -> str:
    """Digest of which files a split has, of their sizes and times."""
    files = hashlib.sha256()
    for index in range(len(data)):
        for path in data.files(index):
            stat = path.stat()
            files.update(f"{path} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return files.hexdigest()[:20]


def _checkpoint(context: Context, data: Dataset) -> Checkpoint | None:
    """Where the state of this training is kept."""
    seconds = states.every()
    if context.state is None or not seconds:
        return None
    question = f"{context.question}\n{len(data)} images {_files(data)}, {context.case.cell.device}"
    return Checkpoint(context.state, question, every_s=seconds, say=context.say)


def _teacher(context: Context, data: Dataset) -> models.Kept | None:
    """The kept model that teaches, where the recipe has one and gives it a say.

    Raises:
        UserError: it has not been kept; says the command that does it.
        Unsupported: see `bench.training.distill.check`.
    """
    wanted, case = context.case.recipe.teacher, context.case
    if wanted is None or not context.case.recipe.teacher_share:
        return None
    beside = () if context.pictures is None else (context.pictures.parent.parent,)
    for path in models.files((*beside, models.RESULTS)):
        found = models.read(path)
        cell = found.cell
        same = (cell.backbone, cell.head, cell.weights, f"{cell.height}x{cell.width}", cell.recipe, cell.seed)
        asked = (wanted.backbone, wanted.head, wanted.weights, wanted.resolution, wanted.recipe, wanted.seed)
        patch = wanted.patch or catalogue.get("backbones", wanted.backbone).facts["patch"]
        if same == asked and cell.patch == patch and cell.dataset == case.cell.dataset:
            models.whole(path)
            check(case.task, data.classes, found.classes)
            return found
    patch = "native" if wanted.patch is None else wanted.patch
    raise UserError(
        f"the teacher of recipe {case.cell.recipe} has not been kept for {case.cell.dataset}: {wanted.in_words()}. "
        f"Train it first: densebench run --keep-models --measure accuracy --dataset {case.cell.dataset} --backbone "
        f"{wanted.backbone} --patch {patch} --weights {wanted.weights} --head {wanted.head} --resolution "
        f"{wanted.resolution} --recipe {wanted.recipe} --seed {wanted.seed}; then run this again"
    )


def _model(net: Model, context: Context) -> dict[str, Value]:
    """What is said of the trained model where it was to be kept; a disk that is full does not cost the accuracy."""
    if context.models is None:
        return {}
    try:
        return {MODEL: kept.keep(net, trained.plain(context.case), context.models)}
    except OSError as error:
        return {MODEL_LOST: f"{context.models} cannot be written to ({error.strerror or error})"}


def figures(found: Overlaps | Detections) -> dict[str, Value]:
    """The columns that follow from what is known of every image, in percent; None where nothing was to be found.

    What was not looked at (masks, areas that the truth does not state) is left out.
    """
    columns = [column["name"] for column in CATALOGUE["accuracy"]["columns"]]
    values: dict[str, Value] = {name: _known(one) for name in columns if (one := found.figure(name)) is not None}
    for name in columns:
        classes = {key: found.figure(f"{name}[{key}]") for key in found.classes}
        if all(one is not None for one in classes.values()):
            values[name] = {key: _known(one) for key, one in classes.items() if one is not None}
    return values


def _kept(found: Overlaps | Detections, context: Context) -> dict[str, Value]:
    """Where what is known of every image was written; a disk that is full does not cost the accuracy."""
    if context.images is None:
        return {}
    try:
        return {IMAGES: store.write(context.images, found.arrays())}
    except OSError as error:
        return {IMAGES_LOST: f"{context.images} cannot be written to ({error.strerror})"}


def _known(figure: np.ndarray) -> float | None:
    return None if np.isnan(figure[0]) else float(figure[0])
