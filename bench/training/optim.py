"""How weights move: parameter groups, schedule, a training step, and the average of the weights."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from backbones.parameters import layers
from backbones.stochastic import set_drop_path
from bench.plan.recipe import Recipe
from heads.contract import Model, Target

_NO_DECAY_NAMES = (
    "pos_embed",
    "pos_embedding",
    "cls_token",
    "class_token",
    "class_tokens",
    "dist_token",
    "reg_token",
    "mask_token",
    "relative_position_bias_table",
    "logit_scale",
    "layer_scale",
)
"""Last parts of the names of parameters that are no matrices of weights, though some have two dimensions or more."""
_NO_DECAY_PARTS = ("cpb_mlp",)
"""Modules whose matrices make position biases: Swin v2 (Liu et al. 2022, arXiv 2111.09883) does not decay them."""


def in_training_mode(model: Model, recipe: Recipe) -> None:
    """Train mode, with the recipe's drop path and auxiliary head, but for what it freezes.

    ``freeze``: the backbone takes no gradients and stays in evaluation mode (no drop path, statistics as they are).
    ``freeze_norm``: the backbone's batch norms keep statistics, scale and offset, as Detectron2's FrozenBatchNorm2d.

    Raises:
        Unsupported: drop path of a backbone without residual branches.
    """
    if not recipe.freeze:
        set_drop_path(model.backbone, recipe.drop_path)
    if recipe.aux_heads:
        model.head.set_auxiliary()
    model.train()
    if recipe.freeze:
        model.backbone.requires_grad_(requires_grad=False)
        model.backbone.eval()
    if recipe.freeze_norm:
        for module in model.backbone.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
                module.requires_grad_(requires_grad=False)


def groups(model: Model, recipe: Recipe) -> list[dict[str, Any]]:
    """Parameter groups for AdamW: those of one learning rate and one weight decay together.

    The rate of the backbone is ``lr * backbone_lr * layer_decay ** (layers above it)``, that of the head ``lr *
    head_lr``. Weight decay is on matrices and kernels only: none on norms, biases, positions and tokens (`decays`), nor
    on what backbone and head name by ``no_weight_decay``.

    Raises:
        Unsupported: ``layer_decay`` of a network whose layers nobody has named.
    """
    depth, last = layers(model.backbone) if recipe.layer_decay < 1 else ({}, 0)
    named = {f"backbone.{name}" for name in model.backbone.no_weight_decay()}
    named |= {f"head.{name}" for name in model.head.no_weight_decay()}
    found: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        part, _, rest = name.partition(".")
        if part == "backbone":
            scale = recipe.backbone_lr * recipe.layer_decay ** (last - depth.get(rest, last))
        else:
            scale = recipe.head_lr
        decay = recipe.weight_decay if name not in named and decays(name, parameter) else 0.0
        found.setdefault((scale, decay), []).append(parameter)
    # Decayed ones first, as there were but two groups at first: fused kernels go through them in this order.
    ordered = sorted(found.items(), key=lambda item: (-item[0][0], -item[0][1]))
    return [
        {"params": parameters, "weight_decay": decay, "lr": recipe.lr * scale} for (scale, decay), parameters in ordered
    ]


def decays(name: str, parameter: Tensor) -> bool:
    """Whether weight decay is for the parameter of that name."""
    path = name.split(".")
    return parameter.ndim > 1 and path[-1] not in _NO_DECAY_NAMES and not set(path) & set(_NO_DECAY_PARTS)


def rate(step: int, recipe: Recipe) -> float:
    """Learning rate of a step as a share of the peak: a linear warm-up, then a cosine."""
    warm = max(1, round(recipe.steps * recipe.warmup))
    if step < warm:
        return (step + 1) / warm
    progress = (step - warm) / max(1, recipe.steps - warm)
    return recipe.final_lr + (1 - recipe.final_lr) * (1 + math.cos(math.pi * progress)) / 2


class Stepper:
    """One training step, in two halves: what a recipe trains with, and what the cost of training is measured on.

    Args:
        model: in float32, in train mode, on ``device``.
        recipe: its optimiser's numbers; schedule and data are the caller's.
        dtype: below float32 the forward pass runs under autocast to it, float16 with a scaled loss.
        device: of the model.
        forward: what runs the model, such as its compiled form, or its head on features; None: the model itself.
    """

    def __init__(
        self,
        model: Model,
        recipe: Recipe,
        *,
        dtype: torch.dtype,
        device: torch.device,
        forward: Callable[[Any], Any] | None = None,
    ) -> None:
        self.model, self.dtype, self.device, self.clip = model, dtype, device, recipe.clip
        self.forward = forward or model
        self.every = recipe.grad_accumulation
        self.optimizer = torch.optim.AdamW(groups(model, recipe), lr=recipe.lr, betas=recipe.betas, fused=True)
        self.scaler = torch.GradScaler(device.type, enabled=dtype == torch.float16)
        self._gathered = 0
        self._average: AveragedModel | None = None
        if recipe.ema is not None:
            average = get_ema_multi_avg_fn(recipe.ema)
            self._average = AveragedModel(model, multi_avg_fn=average, use_buffers=True)

    def loss(self, image: Any, target: Target) -> Float[Tensor, ""]:
        """Forward pass and loss."""
        return self.model.loss(self.run(image), target)

    def run(self, image: Any) -> Any:
        """Forward pass alone: the head's raw outputs for images (B, 3, H, W), or for what ``forward`` takes."""
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            return self.forward(image)

    def update(self, loss: Float[Tensor, ""]) -> bool:
        """Backward pass, and, with the last of ``grad_accumulation`` batches, clipping and the optimiser's step.

        Returns:
            Whether the weights have moved.
        """
        if self._gathered == 0:
            self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss / self.every if self.every > 1 else loss).backward()
        self._gathered = (self._gathered + 1) % self.every
        if self._gathered:
            return False
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self._average is not None:
            self._average.update_parameters(self.model)
        return True

    @torch.no_grad()
    def finish(self) -> None:
        """Put the average of the weights, where the recipe has one, into the model."""
        if self._average is None:
            return
        averaged = self._average.module.state_dict()
        self.model.load_state_dict(averaged)

    def state_dict(self) -> dict[str, Any]:
        """Everything beside the model's weights that the next step depends on, between two updates."""
        state = {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}
        return state if self._average is None else {**state, "average": self._average.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from where `state_dict` was taken."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        if self._average is not None:
            self._average.load_state_dict(state["average"])
