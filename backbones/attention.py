"""Which attention kernel a model built from timm's blocks runs."""

from timm.layers import Attention as TimmAttention
from timm.models.swin_transformer import WindowAttention
from torch import nn

from backbones.contract import Attention

_KERNEL_MODULES = (TimmAttention, WindowAttention)


def set_attention(model: nn.Module, kernel: Attention) -> None:
    """Make every attention block use torch's fused kernel or the explicit softmax; "auto" leaves timm's own choice.

    timm fuses attention in ViT and not in Swin, which alone can decide a comparison: hence a field of the cell.
    """
    if kernel == "auto":
        return
    for module in model.modules():
        if isinstance(module, _KERNEL_MODULES):
            # Final for TorchScript's sake; nothing here is scripted.
            module.fused_attn = kernel == "fused"  # pyright: ignore[reportAttributeAccessIssue]
