"""Targets 9 and 10 of the reference: the shared encoder pass, and equation 9 in one pass. Run with `make bench`."""

import statistics
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import torch
from lamella import Step
from torch.nn.functional import cross_entropy, normalize
from torch.utils.flop_counter import FlopCounterMode

PAIRS, SIZE = 2, 224
EXAMPLES = Path(__file__).parents[2] / "examples" / "paper"


def trainer(ratio):
    """ViT-B/16 with the decoder of MAE, without memory for its weights: operations are counted, not carried out."""
    from lamella_sem.mae_contrastive import MaeContrastive
    from lamella_sem.vit import vit

    with torch.device("meta"):
        encoder = vit(channels=1)
        return MaeContrastive(encoder=encoder, ratio=ratio, decoder_width=512, decoder_depth=8, decoder_heads=16)


def batch(pairs, size, *, device="cpu"):
    from lamella import Batch

    with torch.device(device):
        meta = {"present": torch.ones(pairs), "die": torch.arange(pairs)}
        return {view: Batch.of(torch.rand(pairs, 1, size, size), meta=meta) for view in ("high", "low")}


def flops(body):
    """Floating-point operations of forward and backward."""
    with FlopCounterMode(display=False) as counter:
        body().backward()
    return counter.get_total_flops()


def losses(made, seen, *, second):
    """Reconstruction and what goes into the contrast: from the one masked pass, or from a second, unmasked one.

    Equation 9 itself is left out on both sides: thousandths of the whole.
    """
    masked = made._encode(seen)
    tokens = made.encoder.forward_features(seen.image) if second else masked
    return made._reconstruct(masked, seen, Step(1, 10, 0)) + made.head(tokens[:, 1:].mean(1)).square().mean()


def shares(ratio):
    """Operations: (one pass, two passes, the encoder masked, the encoder unmasked)."""
    made, pair = trainer(ratio), batch(PAIRS, SIZE, device="meta")
    seen = made._see(pair, Step(1, 10, 0))
    assert made._encode(seen).shape == (4 * PAIRS, 1 + 196 - round(196 * ratio), 768)
    return (
        flops(lambda: losses(made, seen, second=False)),
        flops(lambda: losses(made, seen, second=True)),
        flops(lambda: made._encode(seen).sum()),
        flops(lambda: made.encoder.forward_features(seen.image).sum()),
    )


def test_target_9_shared_pass_against_a_second_unmasked_one():
    for ratio, target in ((0.75, 2.7), (0.25, 1.9)):
        one, two, masked, whole = shares(ratio)
        print(
            f"\nratio {ratio}: {one / PAIRS / 1e9:.0f} GFLOP a pair and step in one pass, {two / PAIRS / 1e9:.0f} in "
            f"two: {two / one:.2f}x fewer with the decoder, {(masked + whole) / masked:.2f}x in the encoder alone "
            f"(target {target}x)"
        )


def four_blocks(high, low, temperature):
    """The four terms of equation 9 as four cross-entropies over whole blocks."""
    images = len(high)
    other = torch.arange(images).roll(images // 2)
    itself = torch.eye(images, dtype=torch.bool)
    total = high.new_zeros(())
    for anchor, target in ((high, high), (high, low), (low, high), (low, low)):
        total = total + cross_entropy((anchor @ target.t() / temperature).masked_fill(itself, -torch.inf), other)
    return total / 4


def one_pass(high, low, temperature):
    from lamella_sem.four_way import four_way

    defect = torch.arange(len(high) // 2, device=high.device)
    loss = four_way(high, low, temperature=temperature, defect=defect)
    return (loss.total / loss.count).mean()


def features(images, width=128):
    generator = torch.Generator().manual_seed(0)
    return [normalize(torch.randn(images, width, generator=generator), dim=1).requires_grad_() for _ in range(2)]


PEAK = """
import sys
sys.path.insert(0, "tests/bench")
from bench_sem import features, four_blocks, one_pass

def highest():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) / 1024

loss = {"one_pass": one_pass, "four_blocks": four_blocks}[sys.argv[1]]
loss(*features(64), 0.1).backward()
high, low = features(int(sys.argv[2]))
before = highest()
loss(high, low, 0.1).backward()
print(highest() - before)
"""


def peak(which, images):
    """MiB that a fresh process grows by at its highest (Linux)."""
    done = subprocess.run([sys.executable, "-c", PEAK, which, str(images)], capture_output=True, text=True, check=True)
    return float(done.stdout)


def test_target_10_four_way_loss_against_four_blocks():
    images = 4096
    high, low = features(images)
    small = features(256)
    ours, theirs = (torch.autograd.grad(f(*small, 0.1), small) for f in (one_pass, four_blocks))
    assert max((a - b).abs().max() for a, b in zip(ours, theirs)) < 1e-6
    times: dict[str, list[float]] = {"one_pass": [], "four_blocks": []}
    for _ in range(7):
        for name, body in (("one_pass", one_pass), ("four_blocks", four_blocks)):
            high.grad = low.grad = None
            start = time.perf_counter()
            body(high, low, 0.1).backward()
            times[name].append(time.perf_counter() - start)
    fast, slow = (statistics.median(times[name]) for name in ("one_pass", "four_blocks"))
    used = {name: peak(name, images) for name in times}
    print(
        f"\n{images} images of each magnification, {torch.get_num_threads()} threads: one pass {fast:.2f} s and "
        f"{used['one_pass']:.0f} MiB, four blocks {slow:.2f} s and {used['four_blocks']:.0f} MiB: {fast / slow:.2f} of "
        f"the time (target 1), 1/{used['four_blocks'] / max(used['one_pass'], 0.1):.1f} of the memory (target 1/8)"
    )


def test_a_step_of_pre_training_on_this_machine():
    """Pairs per second of the small size of Table 4, in the time of this process alone, for planning."""
    from lamella.registry.registry import current

    recipe = tomllib.loads((EXAMPLES / "sem-pretrain.toml").read_text(encoding="utf-8"))
    pairs, size = recipe["fit"]["batch_size"], recipe["trainer"]["encoder"]["size"]
    pair = batch(pairs, size)
    for views in (None, recipe["trainer"]["views"], "sem-views"):
        spec = {**recipe["trainer"], "views": views}
        made = current().plan("trainer", {k: v for k, v in spec.items() if v is not None}, "bench").build(
            data={"channels": 1, "classes": 0, "class_names": []}
        )
        taken = []
        for number in range(7):
            start = time.process_time()
            made({"unlabelled": pair}, Step(number, 10, 0))["loss"].backward()
            taken.append(time.process_time() - start)
        named = views if isinstance(views, str) else "none" if views is None else "of the recipe"
        speed = pairs / statistics.median(taken[2:])
        print(f"\nviews {named}: {speed:.0f} pairs a second of CPU time, forward and backward")
