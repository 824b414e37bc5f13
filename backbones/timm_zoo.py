"""Every architecture of timm by its name, ``timm:NAME``: whatever maps timm takes out of it, brought to the contract.

``timm:NAME`` is an architecture of ``timm.list_models()``; ``timm:NAME.TAG`` is the same one with the normalisation
that its weights TAG were trained with. The features are those of timm's ``features_only`` mode, at strides of at least
4 where there are such. What differs between the families is settled once and for all of them: in
`backbones.timm_networks` how maps come out, in `backbones.timm_plan` which patch and input sizes an architecture takes.
"""

import difflib

import timm
import torch
from timm.models import get_arch_pretrained_cfgs
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer

from backbones.attention import set_attention
from backbones.contract import Attention, Backbone, Unsupported, Window, check_patch, check_size
from backbones.timm_networks import RotaryTransformer, TimmBackbone, TimmPlainTransformer
from backbones.timm_plan import PREFIX, form_of, planned, whole_strides
from backbones.vit import PATCHES

CATALOGUE = {
    "timm:": {
        "names": "timm_zoo.json",
        "raw_levels": ["swin", "convnext"],  # beginnings of the names of architectures, see `backbones.contract`
        "doc": "an architecture of timm under timm's own name",
    }
}


def facts(name: str) -> dict[str, str | int]:
    """Native patch size and the tag of the default weights ("" if there are none) of an architecture of timm.

    Raises:
        Unsupported: timm has no such architecture, or no weights of this tag; names what was probably meant.
    """
    architecture, tag = _known(name)
    return {"patch": form_of(name).patch, "tag": tag or default_tag(architecture)}


def default_tag(architecture: str) -> str:
    """Tag of the weights that timm takes by default; "" if it has none."""
    config = timm.get_pretrained_cfg(architecture)
    return (config.tag or "") if config is not None and config.has_weights else ""


def build(
    name: str,
    *,
    patch: int,
    size: tuple[int, int],
    attention: Attention = "auto",
    window: Window = "keep",
) -> Backbone:
    """``timm:NAME`` with random weights; ``patch`` in pixels, ``size`` (H, W) in pixels.

    ``window`` concerns timm's Swin, Swin V2 and Swin V2-CR. MaxViT and its kin always scale theirs with the input, as
    timm does; everything else has none, or none that could be chosen.

    Raises:
        Unsupported: timm has no such architecture, or it cannot have this patch or input size; names the nearest.
    """
    inner = name.removeprefix(PREFIX)
    _known(inner)
    form = form_of(inner)
    if not form.tokenised or form.kind == "intermediates":
        check_patch(name, patch, (form.patch,), because="its stem has a fixed stride")
    check_patch(name, patch, PATCHES, because="a patch is 1 to 64 pixels wide")
    strides = sorted({stride * patch // form.patch for stride in whole_strides(form.strides)})
    because = (
        "the patch grid has to cover the image exactly"
        if len(strides) == 1
        else f"its maps lie at strides {', '.join(map(str, strides))}"
    )
    divisor = form.divisor * patch // form.patch
    try:
        check_size(f"{name} with patch {patch}" if form.tokenised else name, size, divisor, because=because)
    except Unsupported as error:
        # What it names next has to work in the end: a window or a block may want more than the strides do.
        larger = min(pair for pair in error.nearest if pair[0] >= size[0] and pair[1] >= size[1])
        planned(name, form, patch, larger, window, asked=size)
        raise
    plan = planned(name, form, patch, size, window)
    # Planning was done on the meta device; a model that is to live there is ready.
    net = plan.net if torch.get_default_device().type == "meta" else plan.make()
    net.train()
    set_attention(net, attention)
    if isinstance(net, VisionTransformer):
        return TimmPlainTransformer(net, patch=patch, size=size, mean=form.mean, std=form.std)
    if isinstance(net, Eva):
        return RotaryTransformer(net, patch=patch, size=size, mean=form.mean, std=form.std)
    return TimmBackbone(
        net,
        inner,
        read=plan.read,
        levels=plan.levels,
        divisor=divisor,
        size=size,
        patch=patch,
        mean=form.mean,
        std=form.std,
    )


def _known(name: str) -> tuple[str, str]:
    """Architecture and tag of a name.

    Raises:
        Unsupported: there is no such architecture or tag.
    """
    architecture, _, tag = name.partition(".")
    names = timm.list_models()
    if architecture not in names:
        near = difflib.get_close_matches(architecture, names, n=3, cutoff=0.5)
        meant = f"did you mean {' or '.join(f'{PREFIX}{one}' for one in near)}? " if near else ""
        raise Unsupported(
            f"timm {timm.__version__} has no architecture '{architecture}'; {meant}timm.list_models() has {len(names)}"
        )
    tags = list(get_arch_pretrained_cfgs(architecture)) if tag else []
    tags = [one.partition(".")[2] for one in tags]
    if tag and tag not in tags:
        raise Unsupported(f"{PREFIX}{architecture} has no weights '{tag}' in timm; there are: {', '.join(tags) or '-'}")
    return architecture, tag
