"""Masks, patches and equation 8, against counts and the equation as printed."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lamella import Streams
from lamella.errors import ContractError
from lamella.testing.no_sync import no_sync
from lamella_sem.decoder import MaskedDecoder, positions
from lamella_sem.masking import patchify, random_mask, reconstruction, take
from literal_equations import equation_8


@given(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5), st.integers(1, 8), st.integers(1, 3))
def test_patches_go_back_into_the_image(count, rows, columns, side, channels):
    image = torch.rand(count, channels, rows * side, columns * side)
    patches = patchify(image, side)
    assert patches.shape == (count, rows * columns, side * side * channels)
    back = patches.view(count, rows, columns, side, side, channels).permute(0, 5, 1, 3, 2, 4)
    assert (back.reshape(image.shape) == image).all()


def test_a_patch_holds_its_square_of_the_image():
    image = torch.arange(64.0).view(1, 1, 8, 8)
    assert patchify(image, 4)[0, 1].tolist() == image[0, 0, :4, 4:].flatten().tolist()
    assert patchify(image, 4)[0, 2].tolist() == image[0, 0, 4:, :4].flatten().tolist()


@given(st.integers(2, 200), st.floats(0.01, 0.99), st.integers(1, 4), st.integers(0, 999))
def test_the_ratio_is_exact_in_every_image(patches, ratio, count, seed):
    masked = random_mask(Streams(torch.arange(count) + seed), patches, ratio)
    wanted = min(max(round(ratio * patches), 1), patches - 1)
    assert masked.mask.sum(1).tolist() == [wanted] * count
    assert masked.visible.shape == (count, patches - wanted)
    assert (masked.mask.gather(1, masked.visible) == 0).all()
    assert (masked.visible.diff(dim=1) > 0).all()


def test_one_patch_cannot_be_both_masked_and_seen():
    with pytest.raises(ContractError, match="larger images, or a smaller patch"):
        random_mask(Streams(torch.arange(2)), 1, 0.25)


@pytest.mark.parametrize(("ratio", "hidden"), [(0.25, 16), (0.75, 48)])
def test_both_presets_mask_their_share_of_64_patches_and_every_patch_alike(ratio, hidden):
    masked = random_mask(Streams(torch.arange(2000)), 64, ratio)
    assert (masked.mask.sum(1) == hidden).all()
    assert (masked.mask.mean(0) - ratio).abs().max() < 5 * (ratio * (1 - ratio) / 2000) ** 0.5


def test_visible_tokens_are_those_that_are_not_masked():
    tokens = torch.arange(10.0).view(1, 10, 1).expand(2, -1, 3)
    masked = random_mask(Streams(torch.arange(2)), 10, 0.4)
    kept = take(tokens, masked.visible)[..., 0]
    for one, mask in zip(kept, masked.mask):
        assert one.tolist() == [i for i in range(10) if not mask[i]]


@pytest.mark.parametrize("normalise", [False, True])
def test_reconstruction_equals_the_equation_as_printed(normalise):
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(2, 6, 1, 8, 12, generator=generator, dtype=torch.float64)  # 2N = 6 of each magnification
    predicted = torch.randn(2, 6, 6, 16, generator=generator, dtype=torch.float64).requires_grad_()
    masks = torch.stack([random_mask(Streams(torch.arange(6) + 9 * m), 6, 0.5).mask for m in range(2)])
    truth = torch.stack([patchify(one, 4) for one in image])
    if normalise:
        truth = (truth - truth.mean(3, keepdim=True)) / (truth.var(3, keepdim=True) + 1e-6).sqrt()
    ones = torch.ones(6)
    with no_sync():
        found = sum(
            reconstruction(predicted[m], image[m], masks[m], ones, normalise=normalise).value() for m in range(2)
        )
    wanted = equation_8(predicted, truth, masks)
    assert found.item() == pytest.approx(wanted.item(), rel=1e-6)
    ours, theirs = (torch.autograd.grad(value, predicted)[0] for value in (found, wanted))
    assert (ours - theirs).abs().max() < 1e-7
    assert (ours[masks == 0] == 0).all() and (ours[masks == 1] != 0).all()


def test_an_image_that_is_not_there_counts_for_nothing():
    image, mask = torch.rand(3, 1, 8, 8), random_mask(Streams(torch.arange(3)), 4, 0.5).mask
    predicted = torch.zeros(3, 4, 16)
    some = reconstruction(predicted, image, mask, torch.tensor([1.0, 0.0, 1.0]), normalise=False)
    rest = reconstruction(predicted[::2], image[::2], mask[::2], torch.ones(2), normalise=False)
    assert (some.count, some.total.item()) == (2, pytest.approx(rest.total.item()))
    assert reconstruction(predicted, image, mask, torch.zeros(3), normalise=False).value() == 0


def test_the_decoder_reads_each_token_at_its_place():
    torch.manual_seed(0)
    decoder = MaskedDecoder(encoder_width=8, width=16, depth=1, heads=2, pixels=4)
    visible, where = torch.randn(1, 3, 8), torch.tensor([[0, 4, 5]])
    whole = decoder(visible, where, (2, 3))
    turned = decoder(visible[:, [2, 0, 1]], where[:, [2, 0, 1]], (2, 3))
    assert whole.shape == (1, 6, 4) and (whole - turned).abs().max() < 1e-5
    assert (whole - decoder(visible, torch.tensor([[0, 4, 3]]), (2, 3))).abs().max() > 1e-3
    assert len(positions((5, 7), 20).unique(dim=0)) == 35
