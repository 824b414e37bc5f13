"""Which attention kernel a model built from timm's, torchvision's or torch's blocks runs.

A recorded kernel has to be true, so the question is asked of every attention block of the model by its class:

* blocks with a switch between torch's fused kernel and the explicit softmax (most of timm's) are set;
* blocks that write the softmax out and have no switch (cosine attention of Swin v2, pooled attention of MViT v2,
  talking heads of CaiT, torchvision's windows, …) are "unfused" and refuse "fused";
* ``nn.MultiheadAttention`` chooses its kernel by mode and device, and takes no orders: it refuses both.

A model that mixes them is refused what any of its blocks cannot do. A model without attention is the same under every
kernel. Classes are named, not imported: which of them exist depends on the version of the library, and one that is
not there can be in no model.
"""

from collections.abc import Iterator

from torch import nn

from backbones.contract import Attention, Unsupported

SWITCHED = frozenset(
    {
        "timm.layers.attention.Attention",
        "timm.layers.attention.AttentionRope",
        "timm.layers.attention2d.Attention2d",
        "timm.layers.attention2d.MultiQueryAttention2d",
        "timm.layers.attention_pool.AttentionPoolLatent",
        "timm.layers.attention_pool.AttentionPoolPrr",
        "timm.layers.attention_pool2d.AttentionPool2d",
        "timm.layers.attention_pool2d.RotAttentionPool2d",
        "timm.layers.diff_attention.DiffAttention",
        "timm.layers.other_pool.SimPool1d",
        "timm.layers.other_pool.SimPool2d",
        "timm.models.beit.Attention",
        "timm.models.cait.ClassAttn",
        "timm.models.cpubone.ConvAttention",
        "timm.models.davit.WindowAttention",
        "timm.models.eva.EvaAttention",
        "timm.models.fastvit.Attention",
        "timm.models.gemma4_vit.Gemma4Attention",
        "timm.models.hiera.MaskUnitAttention",
        "timm.models.hieradet_sam2.MultiScaleAttention",
        "timm.models.iformer.SHMA",
        "timm.models.lowformer.ConvAttention",
        "timm.models.maxxvit.Attention2d",
        "timm.models.maxxvit.AttentionCl",
        "timm.models.metaformer.Attention",
        "timm.models.nest.Attention",
        "timm.models.nextvit.EfficientAttention",
        "timm.models.pvt_v2.Attention",
        "timm.models.swin_transformer.WindowAttention",
        "timm.models.tiny_vit.Attention",
        "timm.models.twins.GlobalSubSampleAttn",
        "timm.models.twins.LocallyGroupedAttn",
        "timm.models.visformer.Attention",
        "timm.models.vision_transformer.DiffParallelScalingBlock",
        "timm.models.vision_transformer.ParallelScalingBlock",
        "timm.models.vision_transformer_relpos.RelPosAttention",
        "timm.models.vision_transformer_sam.Attention",
        "timm.models.volo.Attention",
        "timm.models.xcit.XCA",
    }
)
"""Attention that has a ``fused_attn`` to set."""

UNFUSED = frozenset(
    {
        "timm.layers.attention2d.MultiQueryAttentionV2",
        "timm.layers.bottleneck_attn.BottleneckAttn",
        "timm.layers.halo_attn.HaloAttn",
        "timm.layers.non_local_attn.NonLocalAttn",
        "timm.models.cait.TalkingHeadAttn",
        "timm.models.coat.FactorAttnConvRelPosEnc",
        "timm.models.convit.GPSA",
        "timm.models.convit.MHSA",
        "timm.models.crossvit.CrossAttention",
        "timm.models.csatv2.SpatialTransformerBlock",
        "timm.models.davit.ChannelAttention",
        "timm.models.davit.ChannelAttentionV2",
        "timm.models.edgenext.CrossCovarianceAttn",
        "timm.models.efficientformer.Attention",
        "timm.models.efficientformer_v2.Attention2d",
        "timm.models.efficientformer_v2.Attention2dDownsample",
        "timm.models.efficientvit_msra.CascadedGroupAttention",
        "timm.models.gcvit.WindowAttentionGlobal",
        "timm.models.levit.Attention",
        "timm.models.levit.AttentionDownsample",
        "timm.models.mobilevit.LinearSelfAttention",
        "timm.models.mvitv2.MultiScaleAttention",
        "timm.models.mvitv2.MultiScaleAttentionPoolFirst",
        "timm.models.shvit.SHSA",
        "timm.models.swin_transformer_v2.WindowAttention",
        "timm.models.swin_transformer_v2_cr.WindowMultiHeadAttention",
        "timm.models.tnt.Attention",
        "timm.models.volo.ClassAttention",
        "timm.models.volo.OutlookAttention",
        "torchvision.models.maxvit.RelativePositionalMultiHeadAttention",
        "torchvision.models.swin_transformer.ShiftedWindowAttention",
    }
)
"""Attention whose softmax is written out."""


def set_attention(model: nn.Module, kernel: Attention) -> None:
    """Make every attention block use torch's fused kernel or the explicit softmax; "auto" leaves the library's choice.

    timm fuses attention in ViT and not in Swin, which alone can decide a comparison: hence a field of the cell.

    Raises:
        Unsupported: an attention block of the model cannot run that kernel; nothing was changed.
    """
    if kernel == "auto":
        return
    switched = []
    for module in model.modules():
        if isinstance(module, nn.MultiheadAttention):
            raise Unsupported(
                f"attention='{kernel}' cannot be asked of nn.MultiheadAttention, which picks its kernel by itself; "
                "take attention='auto'",
                axes=("attention",),
            )
        names = frozenset(_class_names(module))
        if names & UNFUSED and kernel == "fused":
            raise Unsupported(
                f"attention='fused' cannot be asked of {type(module).__module__}.{type(module).__qualname__}, which "
                "writes its softmax out and has no fused kernel; take attention='unfused' or 'auto'",
                axes=("attention",),
            )
        if names & SWITCHED:
            switched.append(module)
    for module in switched:
        module.fused_attn = kernel == "fused"


def _class_names(module: nn.Module) -> Iterator[str]:
    """Dotted names of the module's class and of those that it inherits from."""
    for kind in type(module).__mro__:
        yield f"{kind.__module__}.{kind.__qualname__}"
