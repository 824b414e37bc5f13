"""Parameters, multiply-accumulates and tokens, counted on the meta device."""

from backbones.shapes import shapes_only
from bench.model import build
from bench.model.counting import count
from bench.plan.cell import Cell
from bench.plan.measure import Context, Outcome

CATALOGUE = {
    "complexity": {
        "version": 1,
        "fields": ["@model"],
        "exclusive": False,
        "seconds": 0.7,
        "columns": [
            {"name": "gmacs", "unit": "G", "title": "MACs", "better": "lower", "digits": 3},
            {"name": "params_m", "unit": "M", "title": "params", "better": "lower", "digits": 2},
            {"name": "backbone_params_m", "unit": "M", "title": "backbone params", "better": "lower", "digits": 2},
            {"name": "head_params_m", "unit": "M", "title": "head params", "better": "lower", "digits": 2},
            {"name": "backbone_gmacs", "unit": "G", "title": "backbone MACs", "better": "lower", "digits": 3},
            {"name": "tokens", "unit": "", "title": "tokens", "better": None, "digits": 0},
        ],
    }
}


def measure(_: Cell, context: Context) -> Outcome:
    """Count one image through the model on the meta device, see `bench.model.counting.Counts`.

    Columns:
        gmacs: multiply-accumulates of one image through backbone and head, in 10^9.
        params_m: parameters, in 10^6.
        backbone_params_m: those of the backbone.
        head_params_m: those of the head.
        backbone_gmacs: multiply-accumulates of the backbone.
        tokens: number that the first attention block works on; of a convolutional network the cells of its finest
            level.
    """
    with shapes_only():
        net = build.of_case(context.case)
        counts = count(net)
    return Outcome(
        {
            "params_m": counts.params / 1e6,
            "backbone_params_m": counts.backbone_params / 1e6,
            "head_params_m": counts.head_params / 1e6,
            "gmacs": counts.macs / 1e9,
            "backbone_gmacs": counts.backbone_macs / 1e9,
            "tokens": net.backbone.tokens,
        }
    )
