"""LoRA on queries and values: exact at its beginning, alone in what it changes, and at home in every format."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from lamella.errors import ConfigError
from lamella_sam.lora import (
    SplitProjection,
    adapter_weights,
    add_lora,
    load_adapter,
    lora_layers,
    merged_weights,
    rank_for,
    save_adapter,
    share_trained,
    split,
)
from lamella_sam.nano.network import sam_nano
from lamella_sam.prompts import point_prompts
from safetensors.torch import save_file
from torch import nn

FOREIGN = Path(__file__).parents[4] / "shared" / "data" / "weights_sam_vitb_lora"
IMAGE = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))


def twin(backbone):
    other = sam_nano(weights="none", size="native")
    other.load_state_dict(backbone.state_dict())
    return other.eval()


def trained(backbone, **settings):
    """A backbone whose adapters have taken three steps."""
    torch.manual_seed(5)
    add_lora(backbone, rank=4, alpha=8.0, **settings)
    optimizer = torch.optim.SGD([p for p in backbone.parameters() if p.requires_grad], 0.05)
    wanted = torch.randn(backbone.embed(IMAGE).shape)
    for _ in range(3):
        (backbone.embed(IMAGE) * wanted).sum().backward()
        optimizer.step()
    return backbone


@torch.no_grad()
def test_splitting_the_projection_changes_nothing_at_all(nano):
    before = nano.embed(IMAGE)
    split(nano.image_encoder)
    assert isinstance(nano.image_encoder.blocks[0].attn.qkv, SplitProjection)
    assert (nano.embed(IMAGE) - before).abs().max() == 0


@torch.no_grad()
def test_adapters_change_nothing_at_first(nano):
    before = nano.embed(IMAGE)
    add_lora(nano, rank=4, alpha=16.0)
    assert (nano.embed(IMAGE) - before).abs().max() == 0
    layers = [layer for _, _, layer in lora_layers(nano)]
    assert len(layers) == 16
    assert all((layer.lora_B["default"].weight == 0).all() for layer in layers)
    spread = torch.cat([layer.lora_A["default"].weight.flatten() for layer in layers]).std()
    assert abs(spread - 1 / 4) < 0.01  # Gaussian, as the paper says; peft's standard deviation is 1 / rank


def test_only_queries_and_values_learn_and_the_rest_stays_bit_for_bit(nano):
    before = {name: value.clone() for name, value in nano.state_dict().items()}
    trained(nano)
    assert {which for _, which, _ in lora_layers(nano)} == {"q", "v"}
    after = merged_weights(nano)
    assert set(after) == set(before)
    for name, value in before.items():
        if not name.endswith("qkv.weight"):
            assert torch.equal(after[name], value), name
            continue
        (q0, k0, v0), (q1, k1, v1) = value.chunk(3), after[name].chunk(3)
        assert torch.equal(k0, k1), name
        assert not torch.equal(q0, q1) and not torch.equal(v0, v1), name


@torch.no_grad()
def test_merged_equals_unmerged(nano):
    plain = twin(nano)
    with torch.enable_grad():
        trained(nano)
    adapted = nano.embed(IMAGE)
    assert (adapted - plain.embed(IMAGE)).abs().max() > 1e-2
    plain.load_state_dict(merged_weights(nano))
    assert (plain.embed(IMAGE) - adapted).abs().max() < 1e-5


@torch.no_grad()
def test_merged_vit_b_loads_into_segment_anything_unchanged(tmp_path):
    from lamella_sam.vit import VIT_B, build
    from segment_anything import sam_model_registry

    torch.manual_seed(0)
    ours = build(VIT_B, "none", 256)  # position tables for 1024, as published
    add_lora(ours, rank=2, alpha=2.0)
    for _, _, layer in lora_layers(ours):
        layer.lora_B["default"].weight.normal_(0, 0.02)
    torch.save(merged_weights(ours), tmp_path / "merged.pth")
    theirs = sam_model_registry["vit_b"](checkpoint=str(tmp_path / "merged.pth"))
    assert share_trained(ours) < 0.01
    block = theirs.image_encoder.blocks[3].attn.qkv
    x = torch.randn(5, 768)
    assert (block(x) - ours.image_encoder.blocks[3].attn.qkv(x)).abs().max() < 1e-5


def test_rank_32_trains_between_one_and_two_percent_of_vit_b():
    from lamella_sam.vit import VIT_B, build

    with torch.device("meta"):
        backbone = build(VIT_B, "none", 1024)
    every = sum(p.numel() for p in backbone.parameters())
    assert rank_for(backbone, 4 * 12 * 768 * 32 / every) == 32  # A and B of q and v in 12 blocks
    assert 0.0125 < 4 * 12 * 768 * 32 / every < 0.0127
    assert 32 < rank_for(backbone, 0.015) < 48


def test_the_default_rank_trains_one_to_two_percent_of_nano(nano):
    add_lora(nano, rank=rank_for(nano, 0.015), alpha=1.0)
    assert 0.01 < share_trained(nano) < 0.02


def test_late_blocks_alone_leave_the_prefix_without_gradient(nano):
    before = nano.embed(IMAGE).detach()
    add_lora(nano, rank=4, alpha=4.0, late=2)
    assert {block for block, _, _ in lora_layers(nano)} == {6, 7}
    assert not nano.image_encoder.prefix(nano.prepare(IMAGE)).requires_grad
    embedding = nano.embed(IMAGE)
    assert torch.equal(embedding, before)
    embedding.sum().backward()
    assert all(p.grad is not None for p in nano.parameters() if p.requires_grad)
    with pytest.raises(ConfigError, match="late_blocks = 9: the encoder has 8 blocks"):
        add_lora(nano, rank=4, alpha=4.0, late=9)


@torch.no_grad()
@pytest.mark.parametrize("late", [None, 3])
def test_adapters_are_saved_and_loaded_in_pefts_format(nano, tmp_path, late):
    from peft import PeftModel

    ours, theirs = twin(nano), twin(nano)
    with torch.enable_grad():
        trained(nano, late=late)
    save_adapter(nano, tmp_path / "adapter")
    load_adapter(ours, tmp_path / "adapter")
    assert torch.equal(ours.embed(IMAGE), nano.embed(IMAGE))
    split(theirs.image_encoder)
    loaded = PeftModel.from_pretrained(theirs, str(tmp_path / "adapter"))
    assert torch.equal(loaded.base_model.model.embed(IMAGE), nano.embed(IMAGE))


def test_pefts_own_files_are_read(nano, tmp_path):
    from peft import LoraConfig, get_peft_model

    ours = twin(nano)
    split(nano.image_encoder)
    config = LoraConfig(r=3, lora_alpha=6, target_modules=r".*attn\.qkv\.(q|v)", init_lora_weights=False)
    theirs = get_peft_model(nano, config)
    theirs.save_pretrained(str(tmp_path / "theirs"))
    load_adapter(ours, tmp_path / "theirs")
    with torch.no_grad():
        assert (ours.embed(IMAGE) - theirs.base_model.model.embed(IMAGE)).abs().max() < 1e-6


def test_a_fork_s_file_is_read_in_its_order(nano, tmp_path):
    generator = torch.Generator().manual_seed(0)
    found = {}
    for number in range(16):
        found[f"w_a_{number:03d}"] = torch.randn(4, 128, generator=generator)
        found[f"w_b_{number:03d}"] = torch.randn(128, 4, generator=generator)
    save_file(found, tmp_path / "fork.safetensors")
    before = {name: value.clone() for name, value in nano.state_dict().items()}
    load_adapter(nano, tmp_path / "fork.safetensors")
    name = "image_encoder.blocks.3.attn.qkv.weight"
    added = merged_weights(nano)[name] - before[name]
    assert torch.allclose(added[:128], found["w_b_006"] @ found["w_a_006"], atol=1e-4)  # q of block 3
    assert torch.allclose(added[256:], found["w_b_007"] @ found["w_a_007"], atol=1e-4)  # v of block 3
    assert (added[128:256] == 0).all()


@pytest.mark.skipif(not FOREIGN.is_dir(), reason=f"real adapters are not at {FOREIGN.name}")
@pytest.mark.parametrize("rank", [4, 16])
def test_real_adapters_of_vit_b_are_imported(rank):
    from lamella_sam.vit import VIT_B, build
    from safetensors.torch import load_file

    backbone = build(VIT_B, "none", 64)
    source = FOREIGN / f"lora_rank{rank}.safetensors"
    load_adapter(backbone, source)
    found = load_file(source)
    layers = {(block, which): layer for block, which, layer in lora_layers(backbone)}
    assert len(layers) == 24
    assert torch.equal(layers[11, "v"].lora_A["default"].weight, found["w_a_023"])
    assert torch.equal(layers[0, "q"].lora_B["default"].weight, found["w_b_000"])
    assert layers[0, "q"].scaling["default"] == 1.0
    assert merged_weights(backbone)["image_encoder.blocks.5.attn.qkv.weight"].isfinite().all()


def write(path, tensors):
    save_file(tensors, path)
    return path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: write(p / "x.safetensors", {"up": torch.ones(1)}), "unknown layout of LoRA weights"),
        (lambda p: write(p / "x.safetensors", {"w_a_000": torch.ones(2, 9), "w_b_000": torch.ones(9, 2)}), "not fit"),
        (lambda p: write(p / "x.safetensors", {"w_a_001": torch.ones(2, 9)}), "'w_a_000' is missing"),
        (lambda p: p / "nothing.safetensors", "cannot be read as LoRA weights"),
        (lambda p: p, "adapter_config.json cannot be read"),
    ],
)  # fmt: skip
def test_other_files_are_refused_in_a_sentence(nano, tmp_path, make, message):
    with pytest.raises(ConfigError, match=message):
        load_adapter(nano, make(tmp_path))


def test_a_truncated_adapter_is_refused(nano, tmp_path):
    donor = twin(nano)
    add_lora(donor, rank=2, alpha=2.0)
    save_adapter(donor, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    file = tmp_path / "cut" / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(ConfigError, match="damaged"):
        load_adapter(nano, tmp_path / "cut")


@pytest.mark.parametrize("setting", [
    {"use_rslora": True}, {"use_dora": True}, {"rank_pattern": {"q": 2}}, {"alpha_pattern": {"q": 2}},
])  # fmt: skip
def test_adapters_of_another_scale_are_refused(nano, tmp_path, setting):
    donor = twin(nano)
    add_lora(donor, rank=2, alpha=2.0)
    save_adapter(donor, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, **setting}))
    with pytest.raises(ConfigError, match=f"{next(iter(setting))} = .*: only adapters of one rank"):
        load_adapter(nano, tmp_path)


@pytest.mark.parametrize("way", ["pissa", "pissa_niter_16", "OLoRA", "corda", "loftq", "lora_ga"])
def test_adapters_that_changed_the_given_weights_are_refused(nano, tmp_path, way):
    donor = twin(nano)
    add_lora(donor, rank=2, alpha=2.0)
    save_adapter(donor, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    for init in (True, "gaussian"):
        (tmp_path / "adapter_config.json").write_text(json.dumps({**config, "init_lora_weights": init}))
        load_adapter(twin(nano), tmp_path)
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, "init_lora_weights": way}))
    with pytest.raises(ConfigError, match=f"init_lora_weights = {way}: .* the weights"):
        load_adapter(nano, tmp_path)


def test_a_file_without_adapters_and_a_network_that_has_some_are_refused(nano, tmp_path):
    donor = twin(nano)
    add_lora(donor, rank=2, alpha=2.0)
    save_adapter(donor, tmp_path)
    with pytest.raises(ConfigError, match="the network has LoRA adapters already"):
        load_adapter(donor, tmp_path)
    save_file({}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ConfigError, match="there is no adapter in it"):
        load_adapter(nano, tmp_path)


def test_without_adapters_there_is_nothing_to_save(nano, tmp_path):
    with pytest.raises(ConfigError, match="no LoRA adapters"):
        save_adapter(nano, tmp_path)
    assert adapter_weights(nano) == {}


@torch.no_grad()
def test_prompts_still_work_on_an_adapted_network(nano):
    add_lora(nano, rank=2, alpha=2.0)
    prompts = point_prompts(torch.tensor([[[[5.0, 5.0]]]]), torch.ones(1, 1, 1, dtype=torch.int64), (64, 64))
    masks, iou = nano.masks(nano.embed(IMAGE), prompts)
    assert masks.shape == (1, 1, 4, 32, 32) and iou.shape == (1, 1, 4)
    assert isinstance(nano.image_encoder.blocks[0].attn.qkv.k, nn.Linear)
