"""The four-way loss and pre-training under torchrun on shares of a batch: started by test_two_processes.py."""

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from lamella import Step
from lamella_sem.four_way import four_way

sys.path.insert(0, str(Path(__file__).parent))

from pairs import pairs, share, trainer  # isort: skip

PRESENT = [[1, 1], [1, 0], [1, 1], [1, 1], [0, 1], [1, 1]]


def pretrained(rank, world, *, standardise):
    """The losses and gradients of a step of mae-contrastive, averaged over processes as DDP does."""
    made = trainer(views="sem-views", exclude_same=True, standardise=standardise)
    batch = pairs(6, dies=[1, 2, 3, 1, 5, 6], present=PRESENT)
    losses = made({"unlabelled": share(batch, slice(rank * 6 // world, (rank + 1) * 6 // world))}, Step(3, 10, 0))
    losses["loss"].backward()
    gradients = {name: p.grad for name, p in made.named_parameters() if p.requires_grad}
    for gradient in gradients.values() if world > 1 else ():
        dist.all_reduce(gradient)
        gradient /= world
    values = {name: value.detach().clone() for name, value in losses.items()}
    for value in values.values() if world > 1 else ():
        dist.all_reduce(value)
        value /= world
    return {"losses": values, "gradients": gradients}


def main() -> None:
    path, temperature = sys.argv[1], float(sys.argv[2])
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    given = torch.load(path, weights_only=True)
    count = len(given["defect"]) // world
    mine = slice(rank * count, (rank + 1) * count)

    def share(views):
        """This process's defects out of (2N, D)."""
        halves = views.view(2, -1, views.shape[1])[:, mine]
        return halves.reshape(2 * count, -1).clone().requires_grad_()

    high, low = share(given["high"]), share(given["low"])
    loss = four_way(
        high, low, temperature=temperature, defect=given["defect"][mine], present=given["present"][mine], tile=3
    )
    counts = loss.count.clone()
    dist.all_reduce(counts)
    value = (loss.total / counts).mean()
    value.backward()
    whole = value.detach().clone()
    dist.all_reduce(whole)
    parts = [torch.empty_like(high) for _ in range(2 * world)]
    for place, grad in enumerate((high.grad, low.grad)):
        dist.all_gather(parts[place * world : (place + 1) * world], grad)
    if rank == 0:
        joined = [
            torch.cat([part.view(2, count, -1) for part in parts[place * world : (place + 1) * world]], 1).flatten(0, 1)
            for place in range(2)
        ]
        found = {"loss": whole, "high": joined[0], "low": joined[1], "world": world}
    trained = [pretrained(rank, world, standardise=how) for how in (False, True)]
    if rank == 0:
        torch.save({**found, "trained": trained}, f"{path}.out")
    dist.barrier()
    os._exit(0)  # as the command line does: threads of the group would abort an ordinary exit


if __name__ == "__main__":
    main()
