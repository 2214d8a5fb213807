"""The paper's equations 7 to 9 as they are printed: loops over single images, slow."""

import torch


def equation_9(high, low, temperature, *, same=None, terms=("HH", "HL", "LH", "LL")):
    """ℒ_con for features f^m of 2N images, m ∈ {H, L}; the sum over m, n taken over ``terms``.

    ``same`` says which pairs of defects are no negatives of each other (by default none but a defect itself).
    """
    features, count = {"H": high, "L": low}, len(high)
    half = count // 2
    total = high.new_zeros(())
    for m, n in terms:
        for i in range(count):
            anchor, target = (features[m], features[n]) if i < half else (features[n], features[m])
            j = (i + half) % count
            inside = [
                a for a in range(count) if a == j or (a % half != i % half and not (same and same(a % half, i % half)))
            ]
            scores = torch.stack([torch.dot(anchor[i], target[a]) / temperature for a in inside])
            total = total + torch.dot(anchor[i], target[j]) / temperature - torch.log(torch.exp(scores).sum())
    return -total / (len(terms) * count)


def equation_8(reconstructed, truth, masked):
    """ℒ_rec for 2N images of each magnification; ``reconstructed`` and ``truth`` are (m, 2N, patches, pixels)."""
    total = reconstructed.new_zeros(())
    for m in range(2):
        for i in range(reconstructed.shape[1]):
            there = [patch for patch in range(reconstructed.shape[2]) if masked[m, i, patch]]
            squares = [(reconstructed[m, i, p] - truth[m, i, p]).square().mean() for p in there]
            total = total + torch.stack(squares).mean()
    return total / reconstructed.shape[1]
