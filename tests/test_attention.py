"""Cross-attention and mean scores against torch's attention and loops; places of visual prompts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unseen.modules import attention
from unseen.modules.attention import attend
from unseen.modules.decoders import CrossAttention, DecoderLayer, mean_scores
from unseen.modules.prompts import VisualPrompts

B, K, N, D, HEADS = 2, 3, 7, 12, 4


def twin(ours: CrossAttention) -> nn.MultiheadAttention:
    """torch's attention with the same weights."""
    reference = nn.MultiheadAttention(D, ours.num_heads, batch_first=True)
    parts = (ours.q, ours.k, ours.v)
    reference.load_state_dict(
        {
            "in_proj_weight": torch.cat([part.weight for part in parts]),
            "in_proj_bias": torch.cat([part.bias for part in parts]),
            "out_proj.weight": ours.proj.weight,
            "out_proj.bias": ours.proj.bias,
        }
    )
    return reference.eval()


def close(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool((a - b).abs().max() < 1e-6)


@pytest.mark.parametrize("heads", [1, HEADS])
def test_cross_attention_is_that_of_torch(heads: int) -> None:
    ours = CrossAttention(D, heads).eval()
    for part in (ours.q, ours.k):
        nn.init.normal_(part.weight)  # attention far from uniform
    queries, memory = torch.randn(B, K, D), torch.randn(B, N, D)
    assert close(ours(queries, memory), twin(ours)(queries, memory, memory)[0])


def test_dropout_only_in_training() -> None:
    layer = CrossAttention(D, HEADS, dropout=0.5)
    queries, memory = torch.randn(B, K, D), torch.randn(B, N, D)
    assert not torch.equal(layer.train()(queries, memory), layer(queries, memory))
    assert torch.equal(layer.eval()(queries, memory), layer(queries, memory))


def test_mean_scores_head_by_head() -> None:
    q, k = torch.randn(B, K, D), torch.randn(B, N, D)
    scores = [
        torch.einsum(
            "bkd,bnd->bkn",
            q[..., h * D // HEADS : (h + 1) * D // HEADS],
            k[..., h * D // HEADS : (h + 1) * D // HEADS],
        )
        / (D / HEADS) ** 0.5
        for h in range(HEADS)
    ]
    assert close(mean_scores(q, k, HEADS), torch.stack(scores).mean(dim=0))


def test_decoder_layer_is_post_norm_without_self_attention() -> None:
    layer = DecoderLayer(D, HEADS, 20).eval()
    queries, memory = torch.randn(B, K, D), torch.randn(B, N, D)
    x = queries + twin(layer.multihead_attn)(queries, memory, memory)[0]
    x = nn.functional.layer_norm(x, (D,), layer.norm2.weight, layer.norm2.bias)
    x = (
        x
        + (x @ layer.linear1.weight.T + layer.linear1.bias).clamp(min=0) @ layer.linear2.weight.T
        + layer.linear2.bias
    )
    out = layer(queries, memory)
    assert close(out, nn.functional.layer_norm(x, (D,), layer.norm3.weight, layer.norm3.bias))
    assert close(layer(queries[:, 1:2], memory), out[:, 1:2])


# ------------------------------------------------------- attention in bf16 on CPUs


def masks(queries: int, keys: int) -> dict[str, Tensor | None]:
    """No mask, one of allowed places, one that is added."""
    allowed = torch.rand(queries, keys) > 0.5
    allowed[:, 0] = True  # a query that may look at nothing has no answer
    return {"none": None, "bool": allowed, "float": torch.randn(queries, keys)}


def relative(ours: Tensor, exact: Tensor) -> float:
    return float(((ours.double() - exact).norm() / exact.norm()).detach())


@pytest.mark.parametrize("queries", [9, 3])
@pytest.mark.parametrize("kind", ["none", "bool", "float"])
def test_attention_in_bf16_is_that_of_64_bits(
    monkeypatch: pytest.MonkeyPatch, queries: int, kind: str
) -> None:
    monkeypatch.setattr(attention, "AT_ONCE", 100)  # several parts, the last one smaller
    keys, scale = 9, 0.3
    leaves = [torch.randn(B, t, HEADS, 8).bfloat16() for t in (queries, keys, keys)]
    for leaf in leaves:
        leaf.requires_grad_()
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    mask = masks(queries, keys)[kind]
    with torch.autocast("cpu", torch.bfloat16):
        ours = attend(*(leaf.transpose(1, 2) for leaf in leaves), mask, scale=scale)
    assert ours.dtype == torch.bfloat16
    added = mask.double() if kind == "float" and mask is not None else mask
    reference = F.scaled_dot_product_attention(
        *(leaf.transpose(1, 2) for leaf in exact), attn_mask=added, scale=scale
    )
    assert relative(ours, reference) < 0.01
    weights = torch.randn(ours.shape)
    (ours.float() * weights).sum().backward()
    (reference * weights).sum().backward()
    for leaf, twin_leaf in zip(leaves, exact, strict=True):
        assert leaf.grad is not None
        assert twin_leaf.grad is not None
        assert relative(leaf.grad, twin_leaf.grad) < 0.02
    # The same without gradients, and a mask for each image.
    with torch.no_grad():
        assert torch.equal(
            attend(*(leaf.transpose(1, 2) for leaf in leaves), mask, scale=scale), ours
        )
        own = mask if mask is None else mask.expand(B, 1, queries, keys)
        assert (
            relative(attend(*(x.transpose(1, 2) for x in leaves), own, scale=scale), reference)
            < 0.01
        )


def test_dropout_in_bf16() -> None:
    shape, dropout = (B, HEADS, 9, 8), 0.4
    leaves = [torch.randn(shape).bfloat16().requires_grad_() for _ in range(3)]
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    torch.manual_seed(0)
    ours = attend(*leaves, dropout=dropout)
    torch.manual_seed(0)
    kept = torch.rand(B * HEADS, 9, 9).view(B, HEADS, 9, 9) >= dropout
    q, k, v = exact
    weights = (q @ k.transpose(2, 3) / 8**0.5).softmax(dim=-1) * kept / (1 - dropout)
    assert 0.3 < 1 - kept.float().mean() < 0.5
    assert relative(ours, weights @ v) < 0.01
    direction = torch.randn(shape)
    (ours.float() * direction).sum().backward()
    (weights @ v * direction).sum().backward()
    for leaf, twin_leaf in zip(leaves, exact, strict=True):
        assert leaf.grad is not None
        assert twin_leaf.grad is not None
        assert relative(leaf.grad, twin_leaf.grad) < 0.02


# ------------------------------------------------------------- visual prompts

PROMPTS = 5


def prompts(depth: int) -> VisualPrompts:
    return VisualPrompts(PROMPTS, D, 8, depth).eval()


def projected(module: VisualPrompts, table: Tensor) -> Tensor:
    return (table @ module.prompt_proj.weight.T + module.prompt_proj.bias).expand(B, -1, -1)


def test_prompts_enter_between_class_token_and_patches() -> None:
    module, x = prompts(1), torch.randn(B, 1 + N, D)
    y = module.insert_prompts(x)
    assert y.shape == (B, 1 + PROMPTS + N, D)
    assert torch.equal(y[:, 0], x[:, 0])
    assert torch.equal(y[:, 1 + PROMPTS :], x[:, 1:])
    assert close(y[:, 1 : 1 + PROMPTS], projected(module, module.prompt_embeddings[0]))


def test_shallow_prompts_stay() -> None:
    module = prompts(1)
    assert module.deep_prompt_embeddings is None
    x = torch.randn(B, 1 + PROMPTS + N, D)
    for layer in range(1, 4):
        assert torch.equal(module.replace_prompts(layer, x), x)


def test_deep_prompts_are_replaced_in_every_block() -> None:
    module, x = prompts(4), torch.randn(B, 1 + PROMPTS + N, D)
    assert module.deep_prompt_embeddings is not None
    assert module.deep_prompt_embeddings.shape == (3, PROMPTS, D)
    for layer in range(1, 4):
        y = module.replace_prompts(layer, x)
        assert y.shape == x.shape
        assert torch.equal(y[:, 0], x[:, 0])
        assert torch.equal(y[:, 1 + PROMPTS :], x[:, 1 + PROMPTS :])
        assert close(
            y[:, 1 : 1 + PROMPTS], projected(module, module.deep_prompt_embeddings[layer - 1])
        )


def test_partial_prompts_leave_after_their_last_block() -> None:
    module, x = prompts(2), torch.randn(B, 1 + PROMPTS + N, D)
    assert module.deep_prompt_embeddings is not None
    replaced = module.replace_prompts(1, x)
    assert close(replaced[:, 1 : 1 + PROMPTS], projected(module, module.deep_prompt_embeddings[0]))
    gone = module.replace_prompts(2, replaced)
    assert torch.equal(gone, torch.cat([x[:, :1], x[:, 1 + PROMPTS :]], dim=1))
    assert torch.equal(module.replace_prompts(3, gone), gone)


def test_prompt_dropout_is_drawn_for_each_image() -> None:
    module, x = prompts(1).train(), torch.zeros(B, 1 + N, D)
    drawn = module.insert_prompts(x)[:, 1 : 1 + PROMPTS]
    assert not torch.equal(drawn[0] == 0, drawn[1] == 0)
    module.eval()
    assert torch.equal(module.insert_prompts(x)[0], module.insert_prompts(x)[1])


def test_first_values_keep_vpts_range() -> None:
    module = VisualPrompts(50, D, 8, 3)
    bound = (6 / (3 * 8 * 8 + D)) ** 0.5
    assert module.deep_prompt_embeddings is not None
    for table in (module.prompt_embeddings, module.deep_prompt_embeddings):
        assert 0.95 * bound < table.abs().max() <= bound
