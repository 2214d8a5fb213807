"""Target 10: equation 9 in one pass against four cross-entropy blocks."""

from statistics import median
from typing import Any

import torch
from gpu.setting import Run, Setting, agree, gib, peaks, say
from torch import Tensor


def fourway(setting: Setting) -> None:
    """Target 10."""
    import bench_sem

    def features(images: int) -> list[Tensor]:
        return [each.detach().to(setting.device).requires_grad_() for each in bench_sem.features(images)]

    def loss(body: Any, pair: list[Tensor]) -> Tensor:
        with torch.device(setting.device):  # four_blocks says of no tensor where it lies
            return body(*pair, 0.1)

    few = features(256)
    ours, theirs = (torch.autograd.grad(loss(f, few), few) for f in (bench_sem.one_pass, bench_sem.four_blocks))
    for name, one, other in zip(("high", "low"), ours, theirs):
        agree(f"gradient at 256, {name}", one, other, 1e-4)
    images = 512 if setting.small else 16384
    pair = features(images)

    def both(body: Any) -> Run:
        def run() -> None:
            pair[0].grad = pair[1].grad = None
            loss(body, pair).backward()

        return run

    with torch.no_grad():
        agree(f"loss at {images}", loss(bench_sem.one_pass, pair), loss(bench_sem.four_blocks, pair), 1e-4)
    one, blocks = both(bench_sem.one_pass), both(bench_sem.four_blocks)
    gain, slow, fast = setting.ratio(blocks, one)
    say(f"target 10, four-way loss, {images} of each magnification, width 128, fp32: {1 / gain:.2f} of the time "
        f"(target ≤ 1; {fast:.1f} against {slow:.1f} ms), {peaks(setting.peak(blocks), setting.peak(one))} "
        "(target ≤ 1/20)")  # fmt: skip
    for rows in (128, 256, 512, 1024):
        run = both(tiled(rows))
        for _ in range(setting.warm):
            run()
        spent, high = median(setting.seconds(run) for _ in range(setting.rounds)), setting.peak(run)
        say(f"  in tiles of {rows:4} rows: {spent * 1e3:.1f} ms, peak {gib(high)}")


def tiled(rows: int) -> Any:
    """The loss in one pass, so many rows of the Gram matrix at a time."""
    from lamella_sem.four_way import four_way

    def body(high: Tensor, low: Tensor, temperature: float) -> Tensor:
        defect = torch.arange(len(high) // 2, device=high.device)
        loss = four_way(high, low, temperature=temperature, defect=defect, tile=rows)
        return (loss.total / loss.count).mean()

    return body
