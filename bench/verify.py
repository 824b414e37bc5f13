"""``densebench verify``: this suite's models counted the way that published figures were."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from backbones.contract import Backbone
from backbones.shapes import shapes_only
from bench import catalogue
from bench.errors import unknown
from bench.model.build import build
from bench.model.counting import count, macs, parameters
from bench.report.published import Checked, Published

CLASSES = 1000
"""Of ImageNet-1k, for which the published classifiers are."""


@dataclass(frozen=True)
class Part:
    """What a published figure counts beyond the model of this suite."""

    params: float
    macs: float = 0.0


def _classifier(body: Backbone) -> Part:
    """A linear classifier on the pooled last map, or on one token."""
    layer = nn.Linear(body.levels[-1].channels, CLASSES)
    return Part(parameters(layer), layer.weight.numel())


def _unused_classifier(body: Backbone) -> Part:
    """The classifier of an encoder that was pretrained with one; it is there and never runs."""
    return Part(_classifier(body).params)


def _final_norm(body: Backbone) -> Part:
    """The LayerNorm before a classifier, which a dense head has no use for."""
    return Part(parameters(nn.LayerNorm(body.levels[-1].channels)))


def _auxiliary_head(body: Backbone) -> Part:
    """The auxiliary FCN head of mmsegmentation on the level of stride 16; it only trains, so its MACs do not count."""
    level = next(level for level in body.levels if level.stride == 16)
    head = nn.Sequential(
        nn.Conv2d(level.channels, 256, kernel_size=3, bias=False),
        nn.BatchNorm2d(256),
        nn.Conv2d(256, 150, kernel_size=1),
    )
    return Part(parameters(head))


def _frozen_batch_norm(body: Backbone) -> Part:
    """Batch norm whose scale and shift are buffers: what is published does not count them."""
    norms = [module for module in body.modules() if isinstance(module, nn.BatchNorm2d)]
    return Part(-sum(parameters(norm) for norm in norms))


PARTS: dict[str, Callable[[Backbone], Part]] = {
    "classifier": _classifier,
    "unused classifier": _unused_classifier,
    "final norm": _final_norm,
    "auxiliary head": _auxiliary_head,
    "frozen batch norm": _frozen_batch_norm,
}


def check(row: Published) -> Checked:
    """Count the model of one published row.

    Raises:
        UserError: the row names a backbone, head or part that there is not.
    """
    if strange := [part for part in row.parts if part not in PARTS]:
        raise unknown("part of a published model", strange[0], PARTS)
    with shapes_only():
        if row.head is None:
            entry = catalogue.get("backbones", row.backbone)
            body: Backbone = entry.load().build(
                row.backbone, patch=row.patch or entry.facts["patch"], size=row.size, window=row.window
            )
            params, total = parameters(body), macs(body.eval(), row.size)
        else:
            model = build(
                row.backbone, row.head, patch=row.patch, size=row.size, classes=row.classes or 1, window=row.window
            )
            counts = count(model)
            body, params, total = model.backbone, counts.params, counts.macs
        parts = [PARTS[part](body) for part in row.parts]
    params += sum(part.params for part in parts)
    total += sum(part.macs for part in parts)
    return Checked(row, params, total / 1e9)


def verify(rows: Sequence[Published]) -> Iterator[Checked]:
    """Count every row, one by one."""
    for row in rows:
        yield check(row)
