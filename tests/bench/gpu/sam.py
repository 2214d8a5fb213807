"""Targets 7 and 8: the LoRA step of Segment Anything, and many prompts at once."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import torch
from gpu.setting import Run, Setting, agree, exact, gib, named, peaks, say
from torch import Tensor, nn

TINY: dict[str, Any] = {"width": 128, "heads": 2, "depth": 3, "full": (2,)}
"""What ``--small`` makes of ViT-B."""


def networks(setting: Setting, size: int, rank: int) -> tuple[Any, Any]:
    """(theirs, ours): the same weights with segment_anything's attention and peft, and with ours."""
    import bench_sam
    from lamella_sam.lora import add_lora
    from lamella_sam.vit import VIT_B, build
    from peft import LoraConfig, inject_adapter_in_model

    torch.manual_seed(0)
    variant = replace(VIT_B, **TINY) if setting.small else VIT_B
    ours, theirs = (build(variant, "none", size, table=size) for _ in range(2))
    for name, parameter in ours.image_encoder.named_parameters():
        if "pos" in name:  # they begin as zeros, and would not be checked
            nn.init.normal_(parameter, std=0.1)
    theirs.load_state_dict(ours.state_dict())
    add_lora(ours, rank=rank, alpha=float(rank))
    bench_sam.unfolded(theirs).requires_grad_(False)
    adapters = LoraConfig(r=rank, lora_alpha=rank, target_modules=r"image_encoder\.blocks\.\d+\.attn\.qkv")
    inject_adapter_in_model(adapters, theirs)
    return theirs.to(setting.device).train(), ours.to(setting.device).train()


def lora_step(setting: Setting, net: Any, image: Tensor, wanted: Tensor, *, bf16: bool) -> Run:
    def run() -> None:
        net.zero_grad(set_to_none=True)
        with setting.precision(bf16):
            loss = (net.embed(image) * wanted).sum()
        loss.backward()

    return run


def check_embeddings(setting: Setting, theirs: Any, ours: Any, image: Tensor) -> Tensor:
    """Equal embeddings in float32; returns one of them."""
    with torch.no_grad(), exact():
        one, other = ours.embed(image), theirs.embed(image)
    agree("embedding, fp32", one, other, 1e-4)
    with torch.no_grad(), setting.precision(True):
        apart = [float((net.embed(image).float() - other).norm() / other.norm()) for net in (theirs, ours)]
    say(f"  in bf16 autocast, ‖off‖/‖embedding‖ from fp32: theirs {apart[0]:.1e}, ours {apart[1]:.1e}")
    return other


def compare_lora(setting: Setting, batch: int) -> None:
    size, rank = (320 if setting.small else 1024), 32
    theirs, ours = networks(setting, size, rank)
    image = torch.rand(batch, 3, size, size).to(setting.device)
    wanted = torch.randn_like(check_embeddings(setting, theirs, ours, image))
    for what, theirs_bf16, ours_bf16 in (
        ("(a) fp32 both", False, False),
        ("(b) bf16 autocast both", True, True),
        ("(c) theirs fp32 eager, ours bf16 autocast", False, True),
    ):
        one = lora_step(setting, theirs, image, wanted, bf16=theirs_bf16)
        compare_lora_steps(setting, f"{what}, rank {rank}, {size}²", batch, one, ours, image, wanted, bf16=ours_bf16)
    one = lora_step(setting, theirs, image, wanted, bf16=False)
    ours.image_encoder.compile()
    check_embeddings(setting, theirs, ours, image)
    what = f"(d) theirs fp32 eager, ours bf16 autocast and compiled, rank {rank}, {size}²"
    compare_lora_steps(setting, what, batch, one, ours, image, wanted, bf16=True)


def compare_lora_steps(
    setting: Setting, what: str, batch: int, one: Run, ours: Any, image: Tensor, wanted: Tensor, *, bf16: bool
) -> None:
    two = lora_step(setting, ours, image, wanted, bf16=bf16)
    gain, slow, fast = setting.ratio(one, two)
    say(f"target 7, LoRA step, {what}, batch {batch}: {gain:.2f}× (target ≥ 4; {batch * 1e3 / slow:.2f} against "
        f"{batch * 1e3 / fast:.2f} images/s, {slow:.1f} against {fast:.1f} ms), "
        f"{peaks(setting.peak(one), setting.peak(two))} (target ≤ 1/4)")  # fmt: skip


def lora(setting: Setting) -> None:
    """Target 7."""
    for batch in (1,) if setting.small else (2, 8):
        lora_of(setting, batch)


def lora_of(setting: Setting, batch: int) -> None:
    while True:
        try:
            compare_lora(setting, batch)
            return
        except torch.cuda.OutOfMemoryError as error:
            say(f"target 7: a batch of {batch} does not fit ({str(error).partition(chr(10))[0]})")
        if batch == 1:
            return
        batch //= 2
        say(f"target 7: again for both with a batch of {batch}")
        setting.free()


def kernels(setting: Setting) -> None:
    """What each of torch's attention kernels takes for the shapes of target 7, forward and backward.

    The last part: a kernel that breaks takes the device with it.
    """
    from torch.nn.attention import SDPBackend

    for name, (q, k, v) in attention_shapes(setting).items():
        for width, what in ((v[-1], "values as the encoder has them, padded"), (64, "values not padded")):
            tensors = [
                torch.randn(shape, dtype=torch.bfloat16, device=setting.device).mul_(scale).requires_grad_()
                for shape, scale in ((q, 0.1), (k, 1.0), ((*v[:-1], width), 1.0))
            ]
            say(f"attention, {name}, bf16, q {q}, v {tuple(tensors[2].shape)}, {what}; torch takes {choice(tensors)}")
            for backend in ("FLASH_ATTENTION", "CUDNN_ATTENTION", "EFFICIENT_ATTENTION", "MATH"):
                if (kernel := getattr(SDPBackend, backend, None)) is not None:
                    say(f"  {backend:20} {kernel_time(setting, kernel, tensors)}")
            del tensors
            setting.free()


def attention_shapes(setting: Setting) -> dict[str, tuple[tuple[int, ...], ...]]:
    """Shapes of q, k and v that the encoder hands to torch's attention in bf16, by kind of block."""
    import lamella_sam.encoder as encoder
    from lamella_sam.vit import VIT_B, build

    batch, size = (1, 320) if setting.small else (2, 1024)
    net = build(replace(VIT_B, **TINY) if setting.small else VIT_B, "none", size, table=size).to(setting.device)
    seen: dict[tuple[tuple[int, ...], ...], None] = {}
    plain = encoder.scaled_dot_product_attention

    def note(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
        assert q.dtype == torch.bfloat16 and options == {"scale": 1.0}, (q.dtype, options)
        seen[tuple(q.shape), tuple(k.shape), tuple(v.shape)] = None
        return plain(q, k, v, **options)

    with patch.object(encoder, "scaled_dot_product_attention", note), torch.no_grad(), setting.precision(True):
        net.embed(torch.rand(batch, 3, size, size).to(setting.device))
    found = sorted(seen, key=lambda shapes: -shapes[0][2])  # most tokens first: the global blocks
    return dict(zip(("global blocks", "windows", "a third kind"), found))


def choice(tensors: list[Tensor]) -> str:
    """The kernel that torch takes by itself."""
    from torch.nn.attention import SDPBackend

    try:
        number = int(torch._fused_sdp_choice(*tensors, scale=1.0))  # type: ignore[attr-defined]
    except Exception as error:
        return f"unknown ({type(error).__name__})"
    names = {int(backend.value): name for name, backend in SDPBackend.__members__.items()}
    return names.get(number, str(number))


def kernel_time(setting: Setting, kernel: Any, tensors: list[Tensor]) -> str:
    """ms of forward and of both passes of a kernel and how far it is off float32, or why it does not run."""
    from torch.nn.attention import sdpa_kernel
    from torch.nn.functional import scaled_dot_product_attention

    wanted = torch.randn_like(tensors[2])

    def forward() -> Tensor:
        with sdpa_kernel([kernel]):
            return scaled_dot_product_attention(*tensors, scale=1.0)

    def both() -> None:
        torch.autograd.grad(forward(), tensors, wanted)

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            both()
        except RuntimeError as error:
            reasons = [str(w.message).partition(" (Triggered")[0] for w in told]
            return "refused: " + " | ".join([str(error).partition(chr(10))[0], *dict.fromkeys(reasons)])[:600]
    one, whole = (setting.call(run)[1] for run in (forward, both))
    head = [t[:1, :1].detach().float() for t in tensors]
    right = (head[0] @ head[1].transpose(-2, -1)).softmax(-1) @ head[2]
    off = float((forward()[:1, :1].float() - right).norm() / right.norm())
    return f"{one:.3f} ms forward, {whole:.3f} ms with backward; off float32 by {off:.1e}; {gib(setting.peak(both))}"


def compare_prompts(setting: Setting, name: str, net: Any, image: Tensor, *, plain: bool, bf16: bool) -> None:
    """Target 8 for one network: many prompts in one pass, against a call each, and one embedding and a loop.

    ``plain``: a call is ``segment_anything``'s own; sam-nano, which also draws its prompts, is asked one by one.
    """
    from lamella_sam.prompts import point_prompts

    number, size = (4 if setting.small else 32), (image.shape[-2], image.shape[-1])
    points = (torch.rand(1, number, 1, 2) * size[0]).to(setting.device)
    prompts = point_prompts(points, torch.ones(1, number, 1, dtype=torch.int64, device=setting.device), size)
    one = [prompts.select(slice(i, i + 1)) for i in range(number)]

    def theirs(embedding: Tensor, prompt: Any) -> Tensor:
        if not plain:
            return net.masks(embedding, prompt)[0][0]
        encoder = net.prompt_encoder
        sparse, dense = encoder((prompt.points[0, :, :1], prompt.labels[0, :, :1]), None, None)
        return net.mask_decoder.predict_masks(embedding, encoder.get_dense_pe(), sparse, dense)[0]

    def looped() -> list[Tensor]:
        embedding = net.embed(image)
        return [theirs(embedding, prompt) for prompt in one]

    def inside(run: Callable[[], Any]) -> Callable[[], Any]:
        def wrapped() -> Any:
            with setting.precision(bf16):
                return run()

        return wrapped

    ours = inside(lambda: net.masks(net.embed(image), prompts)[0][0])
    with exact():
        agree(f"masks, {named(bf16)}", ours(), torch.cat(inside(looped)()), 1e-1 if bf16 else 1e-4, must=not bf16)
    called = inside(lambda: [theirs(net.embed(image), prompt) for prompt in one])
    for what, target, run in ((f"{number} calls", 20, called), (f"one encode + {number} decodes", 3, inside(looped))):
        gain, slow, fast = setting.ratio(run, ours)
        say(f"target 8, {name}, {named(bf16)}: {what} / one pass {gain:.1f}× (target ≥ {target}; {slow:.1f} against "
            f"{fast:.1f} ms)")  # fmt: skip
    parts = [setting.call(inside(run))[1] for run in (lambda: net.embed(image), decoding(net, image, prompts))]
    say(f"  of one pass: embedding {parts[0]:.2f} ms, {number} masks at once {parts[1]:.2f} ms")


def decoding(net: Any, image: Tensor, prompts: Any) -> Run:
    embedding = net.embed(image)
    return lambda: net.masks(embedding, prompts)


@torch.no_grad()
def prompts(setting: Setting) -> None:
    """Target 8."""
    from lamella_sam.nano.network import sam_nano
    from lamella_sam.vit import VIT_B, build

    torch.manual_seed(0)
    size = 256 if setting.small else 1024
    variant = replace(VIT_B, **TINY) if setting.small else VIT_B
    nano = sam_nano(weights="none", size=128).eval().to(setting.device)
    vit = build(variant, "none", size, table=size).eval().to(setting.device)
    for bf16 in (False, True):
        grey, colour = torch.rand(1, 1, 128, 128).to(setting.device), torch.rand(1, 3, size, size).to(setting.device)
        compare_prompts(setting, f"ViT-B {size}²", vit, colour, plain=True, bf16=bf16)
        compare_prompts(setting, "sam-nano 128²", nano, grey, plain=False, bf16=bf16)
