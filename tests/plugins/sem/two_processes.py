"""The four-way loss under torchrun on a share of a batch: started by test_four_way.py, not by pytest."""

import sys

import torch
import torch.distributed as dist
from lamella_sem.four_way import four_way


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
        torch.save({"loss": whole, "high": joined[0], "low": joined[1], "world": world}, f"{path}.out")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
