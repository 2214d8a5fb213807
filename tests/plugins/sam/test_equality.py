"""Our way through Segment Anything gives what ``segment_anything`` gives, with the same weights."""

import os
from functools import partial

import pytest
import torch
from lamella_sam.encoder import Encoder, FoldedAttention, relative
from lamella_sam.prompts import ABSENT, Prompts, box_prompts, mask_prompts, point_prompts
from lamella_sam.vit import MEAN, STD, VIT_B, build
from segment_anything.modeling import ImageEncoderViT, Sam
from segment_anything.modeling.image_encoder import Attention, get_rel_pos
from segment_anything.utils.transforms import ResizeLongestSide
from torch import nn

SIDE = 256


def randomised(module):
    """Small random numbers wherever segment_anything starts with zeros."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "rel_pos" in name or "pos_embed" in name:
                parameter.normal_(0, 0.2)
    return module.eval()


@pytest.fixture(scope="module")
def pair():
    """(ours, segment_anything's) ViT-B for images of 256² with equal weights."""
    torch.manual_seed(0)
    ours = randomised(build(VIT_B, "none", SIDE, table=SIDE))
    encoder = ImageEncoderViT(
        depth=12, embed_dim=768, img_size=SIDE, mlp_ratio=4, norm_layer=partial(nn.LayerNorm, eps=1e-6), num_heads=12,
        patch_size=16, qkv_bias=True, use_rel_pos=True, global_attn_indexes=(2, 5, 8, 11), window_size=14,
        out_chans=256,
    )  # fmt: skip
    theirs = Sam(encoder, ours.prompt_encoder, ours.mask_decoder, list(MEAN), list(STD)).eval()
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


@pytest.fixture(scope="module")
def image():
    return torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_the_embedding_of_vit_b_is_that_of_segment_anything(pair, image):
    ours, theirs = pair
    expected = theirs.image_encoder(theirs.preprocess(image * 255))
    assert (ours.embed(image) - expected).abs().max() < 2e-5 * expected.abs().max()


POINTS = torch.tensor([[[[30.0, 40.0], [100.0, 9.0]], [[200.0, 180.0], [0.0, 255.0]]]])
LABELS = torch.tensor([[[1, 0], [1, 1]]])
BOXES = torch.tensor([[[10.0, 20.0, 90.0, 70.0], [0.0, 0.0, 255.0, 255.0]]])


def asked(kind):
    """The same two prompts in our form, and as arguments of segment_anything's prompt encoder."""
    mask = torch.randn(1, 2, 64, 64, generator=torch.Generator().manual_seed(2))
    theirs = {"points": None, "boxes": None, "masks": None}
    size = (SIDE, SIDE)
    if kind == "points":
        return point_prompts(POINTS, LABELS, size), {**theirs, "points": (POINTS[0], LABELS[0])}
    if kind == "boxes":
        return box_prompts(BOXES, size), {**theirs, "boxes": BOXES[0]}
    if kind == "masks":
        return mask_prompts(mask, size), {**theirs, "masks": mask[0].unsqueeze(1)}
    if kind == "a mask and twelve points":  # more tokens than their heads are worth folding for
        points = torch.rand(1, 2, 12, 2, generator=torch.Generator().manual_seed(4)) * SIDE
        labels = torch.tensor([1, 0, 0] * 4).expand(1, 2, -1)
        arguments = {**theirs, "points": (points[0], labels[0]), "masks": mask[0].unsqueeze(1)}
        return point_prompts(points, labels, size)._replace(mask=mask), arguments
    corners = BOXES.unflatten(-1, (2, 2))
    both = Prompts(
        torch.cat([POINTS, corners], 2), torch.cat([LABELS, torch.tensor([[[2, 3], [2, 3]]])], 2), size, mask
    )
    return both, {"points": (POINTS[0], LABELS[0]), "boxes": BOXES[0], "masks": mask[0].unsqueeze(1)}


KINDS = ["points", "boxes", "masks", "a mask and twelve points", "all together"]


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_masks_and_predicted_iou_are_those_of_segment_anything(pair, image, kind):
    ours, theirs = pair
    embedding = ours.embed(image)
    prompts, arguments = asked(kind)
    sparse, dense = theirs.prompt_encoder(**arguments)
    expected_masks, expected_iou = theirs.mask_decoder.predict_masks(
        image_embeddings=embedding, image_pe=theirs.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse, dense_prompt_embeddings=dense,
    )  # fmt: skip
    masks, iou = ours.masks(embedding, prompts)
    assert (masks[0] - expected_masks).abs().max() < 1e-5 * expected_masks.abs().max()
    assert (iou[0] - expected_iou).abs().max() < 1e-5
    large = theirs.postprocess_masks(expected_masks, (SIDE, SIDE), (SIDE, SIDE))
    assert (ours.enlarge(masks, (SIDE, SIDE))[0] - large).abs().max() < 1e-4 * large.abs().max()


@pytest.mark.parametrize("kind", KINDS)
def test_the_decoders_gradients_are_those_of_segment_anything(pair, image, kind):
    ours, theirs = pair
    with torch.no_grad():
        embedding = ours.embed(image)
    prompts, arguments = asked(kind)
    learned = dict(theirs.mask_decoder.named_parameters())

    def literally(seen, _):
        sparse, dense = theirs.prompt_encoder(**arguments)
        return theirs.mask_decoder.predict_masks(seen, theirs.prompt_encoder.get_dense_pe(), sparse, dense)

    def gradients(answers):
        seen = embedding.clone().requires_grad_()
        masks, iou = answers(seen, prompts)
        return torch.autograd.grad(masks.square().sum() + iou.square().sum(), [seen, *learned.values()])

    found, expected = gradients(ours.masks), gradients(literally)
    for name, one, other in zip(["embedding", *learned], found, expected, strict=True):
        assert (one - other).abs().max() <= 1e-4 * other.abs().max() + 1e-6, name


@torch.no_grad()
def test_an_absent_slot_changes_nothing(pair, image):
    ours, _ = pair
    embedding = ours.embed(image)
    plain = box_prompts(BOXES, (SIDE, SIDE))
    padded = plain._replace(
        points=torch.cat([plain.points, 99 * torch.ones(1, 2, 3, 2)], 2),
        labels=torch.cat([plain.labels, torch.full((1, 2, 3), ABSENT)], 2),
    )
    for one, other in zip(ours.masks(embedding, plain), ours.masks(embedding, padded)):
        assert (one - other).abs().max() < 1e-5 * one.abs().max()


@torch.no_grad()
def test_prompts_with_and_without_a_mask_share_a_batch(pair, image):
    ours, _ = pair
    embedding = ours.embed(image)
    prompts = box_prompts(BOXES, (SIDE, SIDE))
    mask = torch.randn(1, 2, 64, 64)
    mixed, _ = ours.masks(embedding, prompts._replace(mask=mask, with_mask=torch.tensor([[True, False]])))
    every, _ = ours.masks(embedding, prompts._replace(mask=mask))
    none, _ = ours.masks(embedding, prompts)
    assert (mixed[0, 0] - every[0, 0]).abs().max() < 1e-4
    assert (mixed[0, 1] - none[0, 1]).abs().max() < 1e-4
    assert (mixed[0, 0] - none[0, 0]).abs().max() > 1e-2


@torch.no_grad()
def test_an_image_of_another_shape_is_scaled_and_padded_as_there(pair):
    ours, theirs = pair
    photo = torch.rand(1, 3, 100, 180, generator=torch.Generator().manual_seed(3))
    transform = ResizeLongestSide(SIDE)
    inside = transform.get_preprocess_shape(100, 180, SIDE)  # apply_image_torch mistakes the batch for the height
    scaled = nn.functional.interpolate(photo * 255, inside, mode="bilinear", align_corners=False, antialias=True)
    expected = theirs.preprocess(scaled)
    assert (ours.prepare(photo) - expected).abs().max() < 1e-4
    points = torch.tensor([[[[20.0, 30.0]]]])
    embedding = ours.embed(photo)
    scaled = transform.apply_coords_torch(points[0], (100, 180))
    sparse, dense = theirs.prompt_encoder(points=(scaled, torch.ones(1, 1)), boxes=None, masks=None)
    expected_masks, _ = theirs.mask_decoder.predict_masks(
        embedding, theirs.prompt_encoder.get_dense_pe(), sparse, dense
    )
    masks, _ = ours.masks(embedding, point_prompts(points, torch.ones(1, 1, 1, dtype=torch.int64), (100, 180)))
    assert (masks[0] - expected_masks).abs().max() < 1e-5 * expected_masks.abs().max()
    assert ours.inside((100, 180)) == inside
    large = theirs.postprocess_masks(expected_masks, inside, (100, 180))
    assert (ours.enlarge(masks, (100, 180))[0] - large).abs().max() < 1e-4 * large.abs().max()


@torch.no_grad()
def test_grey_is_the_colour_image_with_three_equal_channels(pair, image):
    ours, _ = pair
    grey = image[:, :1]
    assert torch.equal(ours.embed(grey), ours.embed(grey.repeat(1, 3, 1, 1)))


@pytest.mark.parametrize("height", [7, 9])
@pytest.mark.parametrize("tokens", [0, 10**9])
def test_folded_attention_equals_the_original_in_values_and_gradients(monkeypatch, height, tokens):
    monkeypatch.setattr("lamella_sam.encoder._PLAIN_TOKENS", tokens)  # both ways through it
    torch.manual_seed(0)
    plain = Attention(24, num_heads=3, use_rel_pos=True, input_size=(7, 7)).double()
    for table in (plain.rel_pos_h, plain.rel_pos_w):
        nn.init.normal_(table)
    x = torch.randn(2, height, height, 24, dtype=torch.float64, requires_grad=True)
    names, parameters = zip(*plain.named_parameters())
    expected = plain(x)
    wanted = torch.autograd.grad(expected.square().sum(), (x, *parameters))
    folded = FoldedAttention(plain)
    found = folded(x)
    got = torch.autograd.grad(found.square().sum(), (x, *(folded.get_parameter(name) for name in names)))
    assert torch.allclose(found, expected, atol=1e-12)
    for one, other in zip(got, wanted):
        assert torch.allclose(one, other, atol=1e-10)


def test_position_tables_of_another_size_are_interpolated_as_there():
    table = torch.randn(13, 4)
    for size in (7, 5, 16):
        assert torch.allclose(relative(table, size), get_rel_pos(size, size, table), atol=1e-6)


@torch.no_grad()
def test_any_side_is_taken_with_the_tables_of_another():
    torch.manual_seed(0)
    encoder = randomised(
        Encoder(img_size=64, patch_size=16, embed_dim=32, depth=2, num_heads=2, out_chans=8, use_rel_pos=True,
                window_size=3, global_attn_indexes=(1,))
    ).fold()  # fmt: skip
    reference = ImageEncoderViT(
        img_size=96, patch_size=16, embed_dim=32, depth=2, num_heads=2, out_chans=8, use_rel_pos=True, window_size=3,
        global_attn_indexes=(1,),
    ).eval()  # fmt: skip
    weights = encoder.state_dict()
    stretched = nn.functional.interpolate(weights["pos_embed"].permute(0, 3, 1, 2), (6, 6), mode="bicubic")
    weights["pos_embed"] = stretched.permute(0, 2, 3, 1)
    for name in ("blocks.1.attn.rel_pos_h", "blocks.1.attn.rel_pos_w"):
        weights[name] = nn.functional.interpolate(weights[name].T.unsqueeze(0), 11, mode="linear")[0].T
    reference.load_state_dict(weights)
    x = torch.randn(1, 3, 96, 96)
    assert torch.allclose(encoder(x), reference(x), atol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif("LAMELLA_SLOW" not in os.environ, reason="takes a minute: set LAMELLA_SLOW=1")
@torch.no_grad()
def test_vit_b_at_its_full_size_is_that_of_segment_anything():
    from segment_anything import sam_model_registry

    torch.manual_seed(0)
    theirs = randomised(sam_model_registry["vit_b"]())
    ours = build(VIT_B, "none", 1024)
    ours.load_state_dict(theirs.state_dict())
    image = torch.rand(1, 3, 1024, 1024)
    expected = theirs.image_encoder(theirs.preprocess(image * 255))
    assert (ours.embed(image) - expected).abs().max() < 2e-5 * expected.abs().max()
