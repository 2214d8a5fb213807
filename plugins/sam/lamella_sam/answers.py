"""From mask logits of all mask tokens to one answer per prompt, and from objects' answers to a map of classes."""

import torch
from torch import Tensor


def choose(logits: Tensor, iou: Tensor, doubt: Tensor) -> tuple[Tensor, Tensor]:
    """One mask (B, Q, h, w) and its predicted IoU (B, Q) per prompt.

    Token 0 answers a prompt that leaves no doubt; of a single click the one of tokens 1 to 3 with the highest
    predicted IoU.

    Args:
        logits: (B, Q, M, h, w) of every mask token.
        iou: (B, Q, M) predicted.
        doubt: (B, Q) bool.

    Source: as ``segment_anything`` chooses with ``multimask_output``.
    """
    token = torch.where(doubt, 1 + iou[..., 1:].argmax(-1), 0)
    return of_token(logits, token), iou.gather(2, token.unsqueeze(-1)).squeeze(-1)


def of_token(logits: Tensor, token: Tensor) -> Tensor:
    """The mask (B, Q, h, w) of mask token ``token`` (B, Q), from (B, Q, M, h, w)."""
    index = token[..., None, None, None].expand(-1, -1, 1, *logits.shape[-2:])
    return logits.gather(2, index).squeeze(2)


def class_map(logits: Tensor, classes: Tensor, count: int, background: int | None = None) -> Tensor:
    """Class probabilities (K, H, W) from the masks of objects whose class is known; they sum to 1.

    A class is as likely at a pixel as its likeliest object; other classes without an object have no part. Where nothing
    is likely at all every class shares equally.

    Args:
        logits: (N, H, W) of N objects.
        classes: (N,) int64 their classes.
        count: K, the number of classes.
        background: the class of what is no object: as likely as the likeliest object is not.
    """
    likely = logits.sigmoid()
    index = classes.view(-1, 1, 1).expand_as(likely)
    best = likely.new_zeros(count, *likely.shape[1:]).scatter_reduce(0, index, likely, "amax")
    if background is not None:
        best[background] = torch.maximum(best[background], 1.0 - best.amax(0))
    best = best + 1e-6
    return best / best.sum(0, keepdim=True)
