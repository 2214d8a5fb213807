"""Weights from files: official, Hugging Face, and everything that is neither."""

import pytest
import torch
from lamella.errors import ConfigError, RegistryError
from lamella.registry.registry import current
from lamella_sam import checkpoints
from lamella_sam.backbone import SamBackbone
from lamella_sam.checkpoints import load_weights, official
from lamella_sam.encoder import Encoder
from lamella_sam.nano.network import sam_nano
from lamella_sam.prompts import box_prompts, point_prompts
from safetensors.torch import save_file
from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer
from torch import nn


def small():
    """A network of Segment Anything's make, small enough for a test."""
    encoder = Encoder(
        img_size=64, patch_size=16, embed_dim=32, depth=2, num_heads=2, out_chans=32, use_rel_pos=True, window_size=2,
        global_attn_indexes=(1,), norm_layer=lambda n: nn.LayerNorm(n, eps=1e-6),
    )  # fmt: skip
    prompts = PromptEncoder(embed_dim=32, image_embedding_size=(4, 4), input_image_size=(64, 64), mask_in_chans=16)
    transformer = TwoWayTransformer(depth=2, embedding_dim=32, num_heads=2, mlp_dim=64)
    decoder = MaskDecoder(transformer_dim=32, transformer=transformer, iou_head_depth=3, iou_head_hidden_dim=32)
    return SamBackbone(
        encoder.fold(), prompts, decoder, patch=16, in_channels=3, size=64, mean=(0, 0, 0), std=(255, 255, 255)
    ).eval()


@pytest.fixture(scope="module")
def hugging_face():
    """The same network as Hugging Face has it, with random weights."""
    from transformers import SamConfig, SamModel

    torch.manual_seed(0)
    config = SamConfig(
        vision_config={
            "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 64,
            "output_channels": 32, "window_size": 2, "global_attn_indexes": [1], "mlp_dim": 128, "num_pos_feats": 16,
        },
        prompt_encoder_config={"hidden_size": 32, "image_size": 64, "image_embedding_size": 4},
        mask_decoder_config={
            "hidden_size": 32, "num_attention_heads": 2, "mlp_dim": 64, "iou_head_hidden_dim": 32,
            "layer_norm_eps": 1e-5,
        },
    )  # fmt: skip
    model = SamModel(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "positional_embedding" not in name:
                parameter.normal_(0, 0.2)
    return model


@torch.no_grad()
def test_hugging_face_weights_give_what_hugging_face_gives(hugging_face, tmp_path):
    state = {name: value.contiguous().clone() for name, value in hugging_face.state_dict().items()}
    save_file(state, tmp_path / "model.safetensors")
    ours = small()
    load_weights(ours, str(tmp_path), "small")  # a folder, as one downloaded from the Hub
    image = torch.rand(1, 3, 64, 64)
    points = torch.tensor([[[[10.0, 20.0]], [[40.0, 50.0]]]])
    theirs = hugging_face(
        pixel_values=image, input_points=points, input_labels=torch.ones(1, 2, 1, dtype=torch.int64),
        multimask_output=True,
    )  # fmt: skip
    embedding = ours.embed(image)
    expected = hugging_face.get_image_embeddings(image)
    assert (embedding - getattr(expected, "last_hidden_state", expected)).abs().max() < 1e-4
    masks, iou = ours.masks(embedding, point_prompts(points, torch.ones(1, 2, 1, dtype=torch.int64), (64, 64)))
    assert (masks[:, :, 1:] - theirs.pred_masks).abs().max() < 1e-4 * theirs.pred_masks.abs().max()
    assert (iou[:, :, 1:] - theirs.iou_scores).abs().max() < 1e-4
    boxes = torch.tensor([[[5.0, 6.0, 30.0, 40.0]]])
    theirs = hugging_face(pixel_values=image, input_boxes=boxes, multimask_output=False)
    masks, _ = ours.masks(embedding, box_prompts(boxes, (64, 64)))
    assert (masks[:, :, :1] - theirs.pred_masks).abs().max() < 1e-4 * theirs.pred_masks.abs().max()


@torch.no_grad()
def test_an_official_checkpoint_goes_there_and_back(tmp_path):
    torch.manual_seed(0)
    ours, other = small(), small()
    torch.save(ours.state_dict(), tmp_path / "sam.pth")
    load_weights(other, str(tmp_path / "sam.pth"), "small")
    assert all(torch.equal(a, b) for a, b in zip(ours.state_dict().values(), other.state_dict().values()))
    save_file(ours.state_dict(), tmp_path / "sam.safetensors")
    load_weights(small(), str(tmp_path / "sam.safetensors"), "small")


def pth(path, value):
    torch.save(value, path)
    return str(path)


class Evil:
    def __reduce__(self):
        return print, ("executed",)


def test_what_is_not_a_checkpoint_is_refused_in_a_sentence(tmp_path, capsys):
    whole = pth(tmp_path / "whole.pth", small().state_dict())
    cut = tmp_path / "cut.pth"
    cut.write_bytes((tmp_path / "whole.pth").read_bytes()[:5000])
    cases = {
        "/no/such/file.pth": "there is no such file",
        str(cut): r"may be damaged or cut short \([^.]*\)$",
        pth(tmp_path / "list.pth", [torch.ones(1)]): "no table of tensors",
        pth(tmp_path / "resnet.pth", {"conv1.weight": torch.ones(1)}): "unknown layout .*'conv1.weight'",
        pth(tmp_path / "part.pth", {"image_encoder.pos_embed": torch.ones(1)}): "is missing",
        pth(tmp_path / "evil.pth", {"image_encoder.pos_embed": Evil()}): "cannot be read as weights",
        whole: "of Segment Anything of this size|another network",
    }
    for source, message in cases.items():
        with pytest.raises(ConfigError, match=message):
            load_weights(sam_nano(weights="none"), source, "sam-nano")
    assert "executed" not in capsys.readouterr().out


def test_a_published_name_with_other_content_is_refused(tmp_path):
    source = pth(tmp_path / "sam_vit_b_01ec64.pth", small().state_dict())
    with pytest.raises(ConfigError, match="not the published checkpoint of that name: its SHA-256"):
        load_weights(small(), source, "sam-vit-b")


def test_a_published_name_is_taken_with_its_hash(tmp_path, monkeypatch):
    source = tmp_path / "sam_vit_b_01ec64.pth"
    pth(source, small().state_dict())
    monkeypatch.setitem(checkpoints.SHA256, source.name, checkpoints.sha256(source))
    load_weights(small(), str(source), "sam-vit-b")


def test_a_hub_id_that_cannot_be_had_is_one_sentence():
    with pytest.raises(ConfigError, match="Hub weights 'nobody/nothing' cannot be had"):  # tests are offline
        load_weights(small(), "nobody/nothing", "sam-vit-b")


def test_half_precision_is_read_as_float32():
    found = official({"image_encoder.pos_embed": torch.ones(1).half()}, "here", "x")
    assert found["image_encoder.pos_embed"].dtype == torch.float32


def test_nano_refuses_other_weights(tmp_path):
    save_file({"a": torch.ones(1)}, tmp_path / "a.safetensors")
    with pytest.raises(ConfigError, match="holds other weights"):
        sam_nano(weights=str(tmp_path / "a.safetensors"))
    with pytest.raises(ConfigError, match="cannot be read"):
        sam_nano(weights=str(tmp_path / "none.safetensors"))
    with pytest.raises(ConfigError, match="multiple of the patch"):
        sam_nano(weights="none", size=100)


def test_a_run_on_official_weights_is_opened_without_them(monkeypatch):
    seen = []
    monkeypatch.setattr("lamella_sam.vit.build", lambda variant, weights, size: seen.append(weights))
    plan = current().plan("backbone", {"name": "sam-vit-b", "weights": "gone.pth"}, "here")
    plan.build(opened=True)
    plan.build()
    assert seen == [None, "gone.pth"]
    with pytest.raises(RegistryError, match="'weights' must be given"):
        current().plan("backbone", "sam-vit-b", "here")
