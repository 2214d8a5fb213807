"""DeepLabV3+: any size and channel count, group norm, and what it says when it cannot be."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from lamella import LamellaError, SegmentationBackbone
from lamella.cli.main import main
from lamella.engine.experiment import check_experiment
from lamella.engine.fit import fit
from lamella.engine.run import open_run, read_header, run_weights
from lamella.errors import ContractError
from lamella_tem.deeplab import DeepLabV3Plus
from lamella_tem.modality import TemModality
from lamella_tem.starts import shipped
from lamella_tem.starts.ship_command import ship
from torch import nn

SMALL = "tu-mobilenetv3_small_100"


def logits(net, image):
    return net.decode(net.encode(image), tuple(image.shape[-2:]))


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    return DeepLabV3Plus(encoder=SMALL, channels=1, classes=4).eval()


def test_it_is_a_segmentation_backbone(small):
    assert isinstance(small, SegmentationBackbone)


@pytest.mark.parametrize("size", [(1, 1), (16, 16), (31, 65), (50, 17), (96, 128)])
def test_logits_have_the_size_of_any_image(small, size):
    out = logits(small, torch.rand(2, 1, *size))
    assert out.shape == (2, 4, *size)
    assert out.isfinite().all()


@pytest.mark.parametrize("encoder", ["resnet18", SMALL])
@pytest.mark.parametrize("stride", [8, 16])
@pytest.mark.parametrize("channels", [1, 2, 5])
def test_any_channel_count_and_stride_is_built_on_any_encoder(encoder, stride, channels):
    net = DeepLabV3Plus(encoder=encoder, output_stride=stride, channels=channels, classes=2).eval()
    features = net.encode(torch.rand(1, channels, 64, 96))
    assert features[-1].shape[-2:] == (64 // stride, 96 // stride)
    assert net.decode(features, (64, 96)).shape == (1, 2, 64, 96)


@pytest.mark.parametrize("encoder", ["resnet18", SMALL])
def test_on_sizes_that_need_no_padding_it_is_the_network_of_smp(encoder):
    import segmentation_models_pytorch as smp

    ours = DeepLabV3Plus(encoder=encoder, channels=2, classes=3).eval()
    theirs = smp.DeepLabV3Plus(encoder, encoder_weights=None, in_channels=2, classes=3).eval()
    theirs.load_state_dict(ours.net.state_dict())
    image = torch.rand(2, 2, 64, 96)
    torch.testing.assert_close(logits(ours, image), theirs(image), rtol=1e-5, atol=1e-6)


def test_padding_repeats_the_border_and_is_cut_off_again(small):
    image = torch.rand(1, 1, 40, 50)
    padded = nn.functional.pad(image, (0, 14, 0, 8), mode="replicate")
    assert torch.equal(logits(small, image), logits(small, padded)[..., :40, :50])


@pytest.mark.parametrize("encoder", ["resnet18", SMALL])
def test_group_norm_leaves_no_batch_norm(encoder):
    net = DeepLabV3Plus(encoder=encoder, norm="group", channels=1, classes=2)
    kinds = {type(module).__name__ for module in net.modules()}
    assert "GroupNorm" in kinds
    assert not [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert not [name for name, _ in net.named_buffers() if "running" in name]


@pytest.mark.parametrize("encoder", ["resnet18", SMALL])
def test_group_norm_keeps_activations_and_learnt_scales(encoder):
    from lamella_tem.deeplab import _to_group_norm

    batch = DeepLabV3Plus(encoder=encoder, channels=1, classes=2)
    names = [name for name, m in batch.named_modules() if isinstance(m, nn.BatchNorm2d)]
    before = {}
    for number, name in enumerate(names):
        module = batch.get_submodule(name)
        nn.init.constant_(module.weight, 1 + number)
        nn.init.constant_(module.bias, -number)
        before[name] = getattr(module, "act", None)
    _to_group_norm(batch)
    for number, name in enumerate(names):
        module = batch.get_submodule(name)
        norm = module if isinstance(module, nn.GroupNorm) else module[0]
        assert norm.weight.unique().tolist() == [1 + number]
        assert norm.bias.unique().tolist() == [-number]
        assert before[name] is None or module[-1] is before[name]


def test_with_group_norm_an_image_does_not_depend_on_its_batch():
    torch.manual_seed(0)
    net = DeepLabV3Plus(encoder="resnet18", norm="group", dropout=0.0, channels=1, classes=2).train()
    images = torch.rand(3, 1, 32, 32)
    torch.testing.assert_close(logits(net, images)[1:2], logits(net, images[1:2]), rtol=1e-4, atol=1e-5)


def test_one_image_in_training_with_batch_norm_is_refused_with_advice(small):
    net = DeepLabV3Plus(encoder=SMALL, channels=1, classes=2).train()
    with pytest.raises(ContractError, match=r"and part .* batch_size, less accumulation, or norm = 'group'"):
        net.encode(torch.rand(1, 1, 32, 32))
    assert logits(net, torch.rand(2, 1, 32, 32)).shape == (2, 2, 32, 32)
    assert logits(net.eval(), torch.rand(1, 1, 32, 32)).shape == (1, 2, 32, 32)


@pytest.mark.parametrize(
    ("encoder", "weights", "said"),
    [
        ("resnet19", None, "near it: resnet18"),
        ("tu-resnet18a", None, "resnet18a"),
        ("vgg11", None, "dilated"),
        ("tu-hgnetv2_b0", None, "output_stride"),
        ("resnet18", "imagnet", "imagenet"),
        ("resnet18", "imagenet", "cannot be built"),  # the tests are offline: it cannot be fetched
    ],
)
def test_an_encoder_that_cannot_be_is_refused_in_one_sentence(encoder, weights, said, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", "/nowhere")
    with pytest.raises(ContractError) as raised:
        DeepLabV3Plus(encoder=encoder, weights=weights, channels=1, classes=2)
    message = str(raised.value)
    assert encoder in message
    assert said in message
    assert "\n" not in message
    assert len(message) < 400


def test_every_parameter_gets_a_gradient():
    net = DeepLabV3Plus(encoder=SMALL, channels=1, classes=3).train()
    logits(net, torch.rand(2, 1, 64, 64)).square().mean().backward()
    assert [name for name, p in net.named_parameters() if p.requires_grad and p.grad is None] == []


def test_dropout_is_that_of_the_parameter():
    net = DeepLabV3Plus(encoder=SMALL, dropout=0.25, channels=1, classes=2)
    assert {m.p for m in net.net.decoder.modules() if isinstance(m, nn.Dropout)} == {0.25}


def test_it_is_built_by_name_from_what_the_dataset_says():
    from lamella.registry.registry import current

    plan = current().plan("backbone", {"name": "deeplabv3plus", "encoder": SMALL}, "here")
    net = plan.build(data={"channels": 2, "classes": 5}).eval()
    assert logits(net, torch.rand(1, 2, 20, 20)).shape == (1, 5, 20, 20)
    with pytest.raises(LamellaError, match="output_stride"):
        current().plan("backbone", {"name": "deeplabv3plus", "output_stride": 4}, "here")


def _trained(folder, trainer, **backbone):
    images = {"source": {"name": "synth-tem", "preset": "demo-finfet", "count": 2, "size": 48}}
    tables = {
        "modality": "tem",
        "data": {"labelled": images, "unlabelled": images},
        "trainer": {**trainer, "backbone": {"name": "deeplabv3plus", "encoder": SMALL, **backbone}},
        "fit": {"steps": 1, "batch_size": 2},
    }
    fit(check_experiment(tables, name="tiny", folder=folder), folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return _trained(tmp_path_factory.mktemp("start"), {"name": "supervised"})


def test_it_starts_from_a_run_with_the_classes_that_both_know(run):
    learnt, known = run_weights(run), read_header(run)["data"]["class_names"]
    names = ["unheard-of", *reversed(known)]
    torch.manual_seed(1)
    found = DeepLabV3Plus(encoder=SMALL, start=str(run), channels=1, classes=len(names), class_names=names)
    torch.manual_seed(1)
    random = DeepLabV3Plus(encoder=SMALL, channels=1, classes=len(names)).state_dict()
    for name, value in found.state_dict().items():
        before = learnt[f"backbone.{name}"]
        if name.startswith("net.segmentation_head."):
            assert torch.equal(value[0], random[name][0])
            assert torch.equal(value[1:], before.flip(0))
        else:
            assert torch.equal(value, before), name


def test_a_start_that_is_no_run_of_this_network_is_refused_in_one_sentence(run, tmp_path):
    with pytest.raises(ContractError, match=r"start = .*none"):
        DeepLabV3Plus(encoder=SMALL, start=str(tmp_path / "none"), channels=1, classes=3)
    for wrong in ({"encoder": "resnet18"}, {"encoder": SMALL, "norm": "group"}, {"encoder": SMALL, "channels": 2}):
        with pytest.raises(ContractError, match=r"another network: .*set encoder, norm and channels"):
            DeepLabV3Plus(**{"channels": 1, "classes": 6} | wrong, start=str(run))


def test_the_shipped_start_knows_a_device_that_it_has_never_seen():
    """The silicon of FinFETs; random weights tell it no better than chance."""
    images = {"source": {"name": "synth-tem", "preset": "device-a", "count": 4, "seed": 5, "size": 128}}
    trainer = {"name": "supervised", "backbone": "deeplabv3plus"}
    tables = {"modality": "tem", "data": {"labelled": images}, "trainer": trainer}
    device = check_experiment(tables, name="finfet", folder=Path()).open("labelled")
    batch = TemModality(intensity="image").collate([device.read(number) for number in range(4)])
    names, found = list(device.classes.names), {}
    for name, start in (("gaa", "gaa"), ("random", None)):
        torch.manual_seed(0)
        net = DeepLabV3Plus(encoder=SMALL, start=start, channels=1, classes=len(names), class_names=names).eval()
        with torch.no_grad():
            answer = logits(net, batch.image).argmax(1) == names.index("silicon")
        silicon = batch.label == names.index("silicon")
        found[name] = ((answer & silicon).sum() / (answer | silicon).sum()).item()
    assert found["gaa"] > 0.4 > 0.2 > found["random"], found


def test_a_run_becomes_a_start_that_says_how_it_was_made(run, tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit) as end:
        main(["tem-start", str(run), "--out", str(tmp_path / "tiny.safetensors")])
    assert not end.value.code and "parameters" in capsys.readouterr().out
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    names = read_header(run)["data"]["class_names"]
    ours, theirs = (
        DeepLabV3Plus(encoder=SMALL, start=start, channels=1, classes=len(names), class_names=names).state_dict()
        for start in ("tiny", str(run))
    )
    assert all(torch.allclose(ours[name], value, atol=1e-3, rtol=1e-3) for name, value in theirs.items())
    facts = json.loads((tmp_path / "tiny.json").read_text(encoding="utf-8"))
    assert facts["class_names"] == names and [stage["step"] for stage in facts["stages"]] == [1]
    assert "demo-finfet" in facts["stages"][0]["experiment"] and str(tmp_path) not in json.dumps(facts)


def test_what_cannot_be_shipped_as_a_start_is_said(run, tmp_path):
    again = _trained(tmp_path, {"name": "supervised"}, start=str(run))
    with pytest.raises(ContractError, match="began with another network"):
        ship(again, tmp_path / "again.safetensors")
    other = _trained(tmp_path / "other", {"name": "weak-to-strong", "sets": ["machine"]})
    with pytest.raises(ContractError, match="no run of `supervised`"):
        ship(other, tmp_path / "other.safetensors")
    assert not list(tmp_path.glob("*.safetensors"))


def test_a_run_is_opened_after_the_run_it_started_from_is_gone(run, tmp_path):
    start = tmp_path / "start"
    shutil.copytree(run, start)
    _trained(tmp_path, {"name": "weak-to-strong", "sets": ["machine"]}, start=str(start))
    shutil.rmtree(start)
    _, trainer, _, header = open_run(tmp_path / "run")
    learnt = trainer.student.backbone.state_dict()
    names = header["data"]["class_names"]
    start = str(tmp_path / "run")
    begun = DeepLabV3Plus(encoder=SMALL, start=start, channels=1, classes=len(names), class_names=names)
    assert all(torch.equal(value, learnt[name]) for name, value in begun.state_dict().items())


@pytest.mark.parametrize("share", [None, 0.25])
def test_it_starts_with_the_weights_that_a_run_predicts_with(tmp_path, share):
    asked = {} if share is None else {"teacher_share": share}
    run = _trained(tmp_path, {"name": "weak-to-strong", "sets": ["machine"], "ema": 0.9, **asked})
    learnt, name = run_weights(run), "net.decoder.block2.0.0.weight"
    teacher, student = learnt[f"teacher.{name}"], learnt[f"student.backbone.{name}"]
    found = DeepLabV3Plus(encoder=SMALL, start=str(run), channels=1, classes=6).state_dict()[name]
    assert not torch.equal(teacher, student)
    assert torch.allclose(found, torch.lerp(student, teacher, 1.0 if share is None else share))
