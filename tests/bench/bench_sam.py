"""Targets 7 and 8, the mask decoder alone, and the cached prefix: folded attention and batched prompts against
``segment_anything``, equal results, side by side.

Both sides interleaved in one process; the figure is the median of the rounds' ratios. On a CPU target 7's ratio is
taken on a small ViT (the target itself is for a GPU).
"""

import time
from statistics import median

import torch
from lamella_sam.encoder import FoldedAttention
from lamella_sam.lora import add_lora
from lamella_sam.nano.network import sam_nano
from lamella_sam.prefix_cache import PrefixCache
from lamella_sam.prompts import point_prompts
from lamella_sam.vit import VIT_B, build
from peft import LoraConfig, inject_adapter_in_model
from segment_anything.modeling.image_encoder import Attention

ROUNDS, PROMPTS = 7, 32


def timed(run):
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def ratio(theirs, ours, rounds=ROUNDS):
    """Median over rounds of theirs / ours, the order swapped every round."""
    theirs(), ours()
    found = []
    for number in range(rounds):
        pair = [(0, theirs), (1, ours)]
        times = dict((k, timed(run)) for k, run in (pair if number % 2 else pair[::-1]))
        found.append(times[0] / times[1])
    return median(found)


def unfolded(backbone):
    """The same network with segment_anything's attention."""
    for block in backbone.image_encoder.blocks:
        mine, grid = block.attn, (len(block.attn.rel_pos_h) + 1) // 2
        plain = Attention(mine.proj.in_features, mine.num_heads, use_rel_pos=True, input_size=(grid, grid))
        plain.load_state_dict(mine.state_dict())
        block.attn = plain
    return backbone


def prompts_at_once(backbone, image, *, plain=True):
    """Target 8: 32 prompts of an image in one pass, against a call each, and against one embedding and a loop.

    ``plain``: a call is ``segment_anything``'s own; sam-nano, which also draws its prompts, is asked one by one.
    """
    size = (image.shape[-2], image.shape[-1])
    points = torch.rand(1, PROMPTS, 1, 2) * size[0]
    prompts = point_prompts(points, torch.ones(1, PROMPTS, 1, dtype=torch.int64), size)
    one = [prompts.select(slice(i, i + 1)) for i in range(PROMPTS)]
    encoder, decoder = backbone.prompt_encoder, backbone.mask_decoder

    def theirs(embedding, prompt):
        if not plain:
            return backbone.masks(embedding, prompt)[0][0]
        sparse, dense = encoder((prompt.points[0, :, :1], prompt.labels[0, :, :1]), None, None)
        return decoder.predict_masks(embedding, encoder.get_dense_pe(), sparse, dense)[0]

    embedding = backbone.embed(image)
    together = backbone.masks(embedding, prompts)[0][0]
    apart = torch.cat([theirs(embedding, prompt) for prompt in one])
    assert torch.allclose(together, apart, atol=1e-4 * float(apart.abs().max()))
    ours = lambda: backbone.masks(backbone.embed(image), prompts)  # noqa: E731
    calls = ratio(lambda: [theirs(backbone.embed(image), prompt) for prompt in one], ours)
    looped = ratio(lambda: [theirs(e, prompt) for e in [backbone.embed(image)] for prompt in one], ours)
    return calls, looped


def decoded(backbone, prompts, learn):
    """``segment_anything``'s mask decoder over ours, on one embedding at its full size, at equal masks or gradients."""
    encoder, decoder, size = backbone.prompt_encoder, backbone.mask_decoder, 1024
    points = torch.rand(1, prompts, 1, 2) * size
    asked = point_prompts(points, torch.ones(1, prompts, 1, dtype=torch.int64), (size, size))
    embedding = torch.randn(1, 256, size // 16, size // 16, requires_grad=learn)

    def theirs():
        sparse, dense = encoder((asked.points[0, :, :1], asked.labels[0, :, :1]), None, None)
        return decoder.predict_masks(embedding, encoder.get_dense_pe(), sparse, dense)[0]

    def ran(masks):
        with torch.set_grad_enabled(learn):
            if not learn:
                return masks()
            return torch.autograd.grad(masks().square().mean(), embedding)[0]

    ours = lambda: backbone.masks(embedding, asked)[0][0]  # noqa: E731
    one, other = ran(theirs), ran(ours)
    assert torch.allclose(one, other, atol=1e-4 * float(one.abs().max()))
    return ratio(lambda: ran(theirs), lambda: ran(ours))


def attention_step(size):
    """Target 7, on ViT-B at a small size: a LoRA step with folded attention against the original, equal losses."""
    torch.manual_seed(0)
    ours = build(VIT_B, "none", size, table=size)
    theirs = build(VIT_B, "none", size, table=size)
    theirs.load_state_dict(ours.state_dict())
    add_lora(ours, rank=4, alpha=4.0)
    unfolded(theirs).requires_grad_(False)
    inject_adapter_in_model(LoraConfig(r=4, target_modules=r"image_encoder\.blocks\.\d+\.attn\.qkv"), theirs)
    image = torch.rand(1, 3, size, size)
    assert torch.allclose(ours.embed(image), theirs.embed(image), atol=1e-4)
    wanted = torch.randn_like(ours.embed(image))
    step = lambda net: lambda: (net.embed(image) * wanted).sum().backward()  # noqa: E731
    return ratio(step(theirs), step(ours), 7)


def attention_layer(grid):
    """Target 7, one attention of ViT-B over grid² tokens, forward and backward: original / folded, equal gradients."""
    plain = Attention(768, 12, use_rel_pos=True, input_size=(grid, grid)).requires_grad_(False)
    for table in (plain.rel_pos_h, plain.rel_pos_w):
        torch.nn.init.normal_(table, std=0.05)
    x = torch.randn(1, grid, grid, 768, requires_grad=True)

    def step(layer):
        x.grad = None
        layer(x).square().sum().backward()
        return x.grad

    folded = FoldedAttention(plain)
    assert torch.allclose(step(plain), step(folded), atol=1e-6)
    return ratio(lambda: step(plain), lambda: step(folded), 9)


def cached_step(backbone, image, late, rank):
    """A LoRA step on the last blocks of images that come again, uncached / cached, at equal gradients."""
    add_lora(backbone, rank=rank, alpha=float(rank), late=late)
    backbone.train()
    encoder, cache = backbone.image_encoder, PrefixCache(1024)
    wanted = torch.randn_like(backbone.embed(image))

    def step(kept):
        encoder.cache = kept
        backbone.zero_grad()
        (backbone.embed(image) * wanted).sum().backward()
        return [p.grad.clone() for p in backbone.parameters() if p.grad is not None]

    for plain, kept in zip(step(None), step(cache), strict=True):
        assert torch.allclose(plain, kept, atol=1e-5 * float(plain.abs().max()))
    return ratio(lambda: step(None), lambda: step(cache))


def report(name, calls, looped):
    print(f"target 8, {name}: 32 calls / one pass {calls:.1f} (≥ 20); one embedding + 32 decodes {looped:.1f} (≥ 3)")


if __name__ == "__main__":
    torch.manual_seed(0)
    with torch.no_grad():
        nano = sam_nano(weights="none", size=128).eval()
        calls, looped = prompts_at_once(nano, torch.rand(1, 1, 128, 128), plain=False)
        report("sam-nano 128²", calls, looped)
    with torch.no_grad():
        backbone = build(VIT_B, "none", 256, table=256).eval()
        calls, looped = prompts_at_once(backbone, torch.rand(1, 3, 256, 256))
        report("ViT-B 256²", calls, looped)
    vit = build(VIT_B, "none", 1024, table=1024).eval()
    for learn, what in ((False, "forward"), (True, "forward and backward")):
        gains = ", ".join(f"{decoded(vit, prompts, learn):.2f} ({prompts})" for prompts in (1, 8))
        print(f"mask decoder at its full size, {what}, segment_anything's / ours, by number of prompts: {gains}")
    nano = cached_step(sam_nano(weights="none", size=128), torch.rand(4, 1, 128, 128), 2, 8)
    print(f"cached prefix, encoder's LoRA step on the last 2 of 8 blocks of sam-nano, 4 × 128²: {nano:.2f}")
    vit = cached_step(build(VIT_B, "none", 256, table=256), torch.rand(1, 3, 256, 256), 4, 4)
    print(f"cached prefix, encoder's LoRA step on the last 4 of 12 blocks of ViT-B, 256²: {vit:.2f}")
    print(f"target 7 on a CPU, LoRA step of ViT-B at 256²: original / folded {attention_step(256):.2f}")
    for grid in (16, 32, 64):
        print(f"target 7 on a CPU, one attention over {grid}² tokens: original / folded {attention_layer(grid):.2f}")
