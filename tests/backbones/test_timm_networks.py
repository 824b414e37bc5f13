"""Transformers of timm as token backbones: a head may go through their blocks one by one."""

import pytest
import torch
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer

from backbones.timm_networks import RotaryTransformer, TimmPlainTransformer


def plain(**choices):
    net = VisionTransformer(
        img_size=(32, 48), patch_size=8, embed_dim=24, depth=4, num_heads=2, num_classes=5, **choices
    )
    return TimmPlainTransformer(net, patch=8, size=(32, 48))


def rotary(**choices):
    net = Eva(img_size=(32, 48), patch_size=8, embed_dim=24, depth=4, num_heads=2, num_classes=5, **choices)
    return RotaryTransformer(net, patch=8, size=(32, 48))


ROTARY = {
    "eva": {"use_rot_pos_emb": False},
    "eva02": {"use_rot_pos_emb": True, "global_pool": "avg"},
    "dinov3": {"use_rot_pos_emb": True, "rope_type": "dinov3", "num_reg_tokens": 4, "use_abs_pos_emb": False},
    "mixed": {"use_rot_pos_emb": True, "rope_type": "mixed", "attn_type": "rope"},
}
TOKENS = {
    "class token": plain,
    "registers": lambda: plain(reg_tokens=4, no_embed_class=True),
    "pooled": lambda: plain(class_token=False, global_pool="avg"),
    "map": lambda: plain(class_token=False, global_pool="map"),
    **{name: lambda choices=choices: rotary(**choices) for name, choices in ROTARY.items()},
}


@pytest.mark.parametrize("name", TOKENS)
def test_blocks_one_by_one_are_the_features(name):
    torch.manual_seed(0)
    body = TOKENS[name]().eval()
    image = torch.rand(2, 3, 32, 48)
    with torch.no_grad():
        maps = body(image)
        tokens = body.embed(image)
        assert tokens.shape == (2, body.prefix + 24, 24)
        for index in range(body.depth):
            tokens = body.block(index, tokens)
        grid = body.norm(tokens)[:, body.prefix :].transpose(1, 2).reshape(2, 24, *body.grid)
    assert len(maps) == 4
    assert torch.allclose(maps[-1], grid, atol=1e-5)
    assert torch.allclose(grid.mean(1), torch.zeros(2, *body.grid), atol=1e-5), "normed"
    assert not torch.allclose(maps[0], maps[-1], atol=1e-2)


@pytest.mark.parametrize("name", TOKENS)
def test_gradients_reach_every_parameter(name):
    body = TOKENS[name]()
    sum(one.square().sum() for one in body(torch.rand(2, 3, 32, 48))).backward()
    assert not [key for key, parameter in body.named_parameters() if parameter.grad is None]


@pytest.mark.parametrize("name", TOKENS)
def test_tokens_of_a_head_in_front_are_not_rotated_and_shift_nothing(name):
    torch.manual_seed(0)
    body = TOKENS[name]().eval()
    with torch.no_grad():
        for parameter in body.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        tokens = body.embed(torch.rand(1, 3, 32, 48))
        queries = torch.randn(1, 1, 24).expand(1, 3, 24)  # three times the same
        together = torch.cat([queries, tokens], dim=1)
        mask = torch.ones(1, 1, together.shape[1], together.shape[1], dtype=torch.bool)
        mask[..., 3:, :3] = False  # the image does not see the queries
        alone = tokens
        for index in range(body.depth):
            alone = body.block(index, alone)
            together = body.block(index, together, mask)
        assert torch.allclose(together[:, 3:], alone, atol=1e-4)
        assert torch.allclose(together[:, :1], together[:, 1:3], atol=1e-4), "the same wherever they stand"
        assert torch.allclose(body.block(0, tokens), body.block(0, tokens)), "nothing is left behind"
