"""The prompt encoder and mask decoder of Segment Anything for many prompts at once.

The modules and their weights are ``segment_anything``'s; only the way through them is ours. All prompts of all
images go through in one call, a prompt may have fewer points than its neighbour (absent slots are masked out of
the attention, so they change nothing), and what depends on the image alone is computed once per image. No host
sync.
"""

import torch
from segment_anything.modeling import MaskDecoder, PromptEncoder
from segment_anything.modeling.transformer import Attention, TwoWayAttentionBlock, TwoWayTransformer
from torch import Tensor, nn
from torch.nn.functional import layer_norm, linear, scaled_dot_product_attention

from lamella_sam.prompts import ABSENT, NO_POINT, Prompts


def sparse_tokens(encoder: PromptEncoder, points: Tensor, labels: Tensor, side: int) -> Tensor:
    """Tokens (B, Q, P, C) of points (B, Q, P, 2), in pixels of a square input of ``side``."""
    b, q, p, _ = points.shape
    where = encoder.pe_layer.forward_with_coords(points.reshape(b, q * p, 2) + 0.5, (side, side)).view(b, q, p, -1)
    kinds = torch.stack([e.weight[0] for e in encoder.point_embeddings])  # negative, positive, two corners
    known = where + kinds[labels.clamp(min=0)]
    blank = encoder.not_a_point_embed.weight[0].expand_as(known)
    return torch.where((labels == NO_POINT).unsqueeze(-1), blank, known)


def dense_tokens(encoder: PromptEncoder, prompts: Prompts, grid: int) -> Tensor:
    """(B or 1, Q or 1, C, grid, grid) what a mask prompt, or its absence, adds to the image embedding."""
    none = encoder.no_mask_embed.weight.view(1, 1, -1, 1, 1).expand(1, 1, -1, grid, grid)
    if prompts.mask is None:
        return none
    b, q = prompts.mask.shape[:2]
    masks = encoder.mask_downscaling(prompts.mask.flatten(0, 1).unsqueeze(1)).unflatten(0, (b, q))
    if prompts.with_mask is None:
        return masks
    return torch.where(prompts.with_mask.view(b, q, 1, 1, 1), masks, none)


def decode(
    encoder: PromptEncoder, decoder: MaskDecoder, embedding: Tensor, prompts: Prompts, points: Tensor, side: int
) -> tuple[Tensor, Tensor]:
    """Mask logits (B, Q, M, 4g, 4g) and predicted IoU (B, Q, M) of every mask token.

    Args:
        embedding: (B, C, g, g).
        points: the prompts' points in pixels of the square input of ``side``.
    """
    grid = embedding.shape[-1]
    own = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])  # (1 + M, C)
    tokens = sparse_tokens(encoder, points, prompts.labels, side)
    there = prompts.labels != ABSENT
    if prompts.tokens is not None:
        tokens = torch.cat([prompts.tokens, tokens], 2)
        there = torch.cat([there.new_ones(prompts.tokens.shape[:3]), there], 2)
    b, q = tokens.shape[:2]
    tokens = torch.cat([own.expand(b, q, -1, -1), tokens], 2)  # (B, Q, T, C)
    there = torch.cat([there.new_ones(b, q, len(own)), there], 2)
    image = embedding.unsqueeze(1) + dense_tokens(encoder, prompts, grid)  # (B, G, C, g, g), G = 1 or Q
    keys = image.flatten(3).transpose(2, 3)  # (B, G, g·g, C)
    place = encoder.pe_layer((grid, grid)).flatten(1).T  # (g·g, C)
    tokens, keys = two_way(decoder.transformer, tokens, keys, place, there)
    return heads(decoder, tokens, keys, grid)


def two_way(
    transformer: TwoWayTransformer, tokens: Tensor, keys: Tensor, place: Tensor, there: Tensor
) -> tuple[Tensor, Tensor]:
    """The two-way transformer: tokens (B, Q, T, C), keys (B, G, N, C); returns both, keys with G = Q."""
    start = tokens
    for layer in transformer.layers:
        tokens, keys = _layer(layer, tokens, keys, start, place, there)
    attended = to_image(transformer.final_attn_token_to_image, tokens + start, keys, place)
    return transformer.norm_final_attn(tokens + attended), keys


def _layer(
    layer: TwoWayAttentionBlock, tokens: Tensor, keys: Tensor, start: Tensor, place: Tensor, there: Tensor
) -> tuple[Tensor, Tensor]:
    if layer.skip_first_layer_pe:
        tokens = among(layer.self_attn, tokens, tokens, there)
    else:
        tokens = tokens + among(layer.self_attn, tokens + start, tokens, there)
    tokens = layer.norm1(tokens)
    tokens = layer.norm2(tokens + to_image(layer.cross_attn_token_to_image, tokens + start, keys, place))
    tokens = layer.norm3(tokens + layer.mlp(tokens))
    return tokens, layer.norm4(to_tokens(layer.cross_attn_image_to_token, keys, place, tokens + start, tokens, there))


def among(layer: Attention, q: Tensor, v: Tensor, there: Tensor) -> Tensor:
    """Attention of tokens to each other: q, also the keys, and v (B, Q, T, C); ``there`` (B, Q, T) may be attended."""
    q, k, v = _heads(layer, layer.q_proj(q)), _heads(layer, layer.k_proj(q)), _heads(layer, layer.v_proj(v))
    scores = (q @ k.transpose(-2, -1)) * q.shape[-1] ** -0.5
    scores = scores.masked_fill(~there[:, :, None, None, :], -torch.inf)
    return layer.out_proj((scores.softmax(-1) @ v).transpose(2, 3).flatten(3))


def to_image(layer: Attention, q: Tensor, image: Tensor, place: Tensor) -> Tensor:
    """Attention of tokens q (B, Q, T, C) to images (B, G, N, C) at ``place`` (N, C); G = 1 is shared by all prompts."""
    q = _heads(layer, layer.q_proj(q))
    q = q * q.shape[-1] ** -0.5
    if _few(layer, q, image):
        shares = _folded_scores(layer.k_proj, q, image, place).softmax(-1)
        attended = (shares.flatten(2, 3) @ image).unflatten(2, q.shape[2:4])  # (B, Q, heads, T, C): before values
        out = torch.einsum("bqhtd,hcd->bqthc", attended, layer.v_proj.weight.unflatten(0, (layer.num_heads, -1)))
        return layer.out_proj(out.flatten(3) + layer.v_proj.bias)
    k, v = _columns(layer, layer.k_proj, image, place), _columns(layer, layer.v_proj, image)
    groups, shared = q.shape[1], k.shape[1] < q.shape[1]
    if shared:  # one image, many prompts: their tokens are queries of one attention
        q = q.transpose(1, 2).flatten(2, 3).unsqueeze(1)  # (B, 1, heads, Q·T, c)
    if q.device.type == "cpu":  # plain products are faster there
        out = (q @ k).softmax(-1) @ v.mT
    else:
        out = scaled_dot_product_attention(q, k.mT, v.mT, scale=1.0)
    if shared:
        out = out.squeeze(1).unflatten(2, (groups, -1)).transpose(1, 2)
    return layer.out_proj(out.transpose(2, 3).flatten(3))


def to_tokens(layer: Attention, image: Tensor, place: Tensor, k: Tensor, v: Tensor, there: Tensor) -> Tensor:
    """Images (B, G, N, C) at ``place`` (N, C) plus their attention to tokens k, v (B, Q, T, C) that are ``there``.

    Scores lie (T, N), so that the softmax over the few tokens runs along the many places. A value is projected out
    before it is shared; its shares add up to one, so that each carries its part of the bias.
    """
    k, v = _heads(layer, layer.k_proj(k)), _heads(layer, layer.v_proj(v))
    k = k * k.shape[-1] ** -0.5
    if _few(layer, k, image):
        scores = _folded_scores(layer.q_proj, k, image, place)
    else:
        scores = k @ _columns(layer, layer.q_proj, image, place)  # (B, Q, heads, T, N)
    shares = scores.masked_fill(~there[:, :, None, :, None], -torch.inf).softmax(-2)
    values = torch.einsum("bqhtc,dhc->bqhtd", v, layer.out_proj.weight.unflatten(1, (layer.num_heads, -1)))
    values = values + layer.out_proj.bias / layer.num_heads
    image = image.expand(*v.shape[:2], -1, -1)
    out = torch.baddbmm(image.flatten(0, 1), shares.flatten(2, 3).flatten(0, 1).mT, values.flatten(2, 3).flatten(0, 1))
    return out.view_as(image)


def _few(layer: Attention, tokens: Tensor, image: Tensor) -> bool:
    """Whether to project tokens (B, Q, heads, T, c) into the image's channels, not each prompt's image into theirs.

    Exact either way; fewer products where all heads' tokens are fewer than the channels between, and no image is
    shared by prompts.
    """
    alone = image.shape[1] == tokens.shape[1]
    return alone and layer.num_heads * tokens.shape[3] < layer.internal_dim


def _folded_scores(project: nn.Linear, tokens: Tensor, image: Tensor, place: Tensor) -> Tensor:
    """tokens · project(image + place), (B, Q, heads, T, c), (B, Q, N, C) and (N, C), as (B, Q, heads, T, N).

    t·(W·x) = (Wᵀ·t)·x: the image is not projected. The places are, once for all prompts.
    """
    heads = tokens.shape[2]
    there = torch.einsum("bqhtc,nhc->bqhtn", tokens, project(place).unflatten(-1, (heads, -1)))
    folded = torch.einsum("bqhtc,hcd->bqhtd", tokens, project.weight.unflatten(0, (heads, -1)))
    scores = torch.baddbmm(*(x.flatten(2, 3).flatten(0, 1) for x in (there, folded)), image.flatten(0, 1).mT)
    return scores.view_as(there)


def _heads(layer: Attention, x: Tensor) -> Tensor:
    """(B, Q, T, C) to (B, Q, heads, T, c)."""
    return x.unflatten(-1, (layer.num_heads, -1)).transpose(2, 3)


def _columns(layer: Attention, project: nn.Linear, image: Tensor, place: Tensor | None = None) -> Tensor:
    """``project(image + place)``, (B, G, N, C) and (N, C), as (B, G, heads, c, N): no head is copied out of it.

    The projection is linear, so that of the places is added, once for all images.
    """
    flat = image.flatten(0, 1).transpose(1, 2)  # (B·G, C, N)
    offset = project.bias.unsqueeze(1) if place is None else project(place).T
    out = torch.baddbmm(offset, project.weight.expand(len(flat), -1, -1), flat)
    return out.unflatten(1, (layer.num_heads, -1)).unflatten(0, image.shape[:2])


def heads(decoder: MaskDecoder, tokens: Tensor, keys: Tensor, grid: int) -> tuple[Tensor, Tensor]:
    """Masks and their predicted IoU from what the transformer gave."""
    mask_tokens = tokens[:, :, 1 : 1 + decoder.num_mask_tokens].unbind(2)
    hyper = torch.stack([mlp(t) for mlp, t in zip(decoder.output_hypernetworks_mlps, mask_tokens)], 2)
    fine = upscaled(decoder.output_upscaling, keys)  # (B, Q, N, 4, 4, c)
    masks = hyper @ fine.flatten(2, 4).mT  # (B, Q, M, 16·N)
    masks = masks.unflatten(-1, (grid, grid, 2, 2, 2, 2)).permute(0, 1, 2, 3, 5, 7, 4, 6, 8)
    return masks.reshape(*masks.shape[:3], 4 * grid, 4 * grid), decoder.iou_prediction_head(tokens[:, :, 0])


def upscaled(layers: nn.Sequential, keys: Tensor) -> Tensor:
    """Features (B, Q, N, 4, 4, c) of the sixteen parts of every place of keys (B, Q, N, C).

    The last two axes of parts are those of the second halving within the first. A transposed convolution whose
    kernel is its stride is a product per place, and with channels last the norm over them is one pass.
    """
    first, norm, act, second, last = layers
    x = _halved(first, keys)
    x = layer_norm(x, x.shape[-1:], norm.weight, norm.bias, norm.eps)
    return last(_halved(second, act(x)))


def _halved(layer: nn.ConvTranspose2d, x: Tensor) -> Tensor:
    """(…, C) to (…, 4, c): the 2 × 2 parts that a transposed convolution of kernel and stride 2 makes of a place."""
    weight = layer.weight.permute(2, 3, 1, 0).flatten(0, 2)  # (4·c, C)
    return linear(x, weight, layer.bias.repeat(4)).unflatten(-1, (4, -1))
