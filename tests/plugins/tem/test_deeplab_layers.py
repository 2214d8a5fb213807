"""Layers of DeepLabV3+ that small maps make cheap: equal to segmentation-models-pytorch's, gradients too."""

import copy

import pytest
import segmentation_models_pytorch as smp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lamella_tem.deeplab import DeepLabV3Plus
from lamella_tem.deeplab_layers import LARGEST, AtrousSeparable, Upsample, between, spare_small_maps
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

SMALL = "tu-mobilenetv3_small_100"


def package_network():
    torch.manual_seed(0)
    return smp.DeepLabV3Plus(encoder_name=SMALL, encoder_weights=None, in_channels=1, classes=4).double()


def spared(net):
    net = copy.deepcopy(net)
    spare_small_maps(net.decoder)
    spare_small_maps(net.segmentation_head)
    return net


def answer_and_gradients(net, image):
    image = image.clone().requires_grad_()
    torch.manual_seed(1)  # of the dropout
    out = net(image)
    (out * torch.linspace(-1.0, 2.0, out.numel(), dtype=out.dtype).view_as(out)).sum().backward()
    return {"logits": out.detach(), "image": image.grad, **{n: p.grad for n, p in net.named_parameters()}}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("size", [(128, 128), (192, 64), (208, 96), (400, 16)])
def test_a_network_of_these_layers_is_the_package_s(size, training):
    """At 1/16: 8 × 8, 12 × 4 (rate 12, the last to go), 13 × 6 (rate 12 stays), 25 × 1 (12 and 24 stay)."""
    theirs = package_network().train(training)
    ours = spared(theirs)
    image = torch.randn(2, 1, *size, dtype=torch.float64)
    expected, found = answer_and_gradients(theirs, image), answer_and_gradients(ours, image)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.allclose(found[name], value, rtol=1e-9, atol=1e-9), name


def test_every_atrous_layer_and_upsampling_is_taken_and_no_name_of_a_weight_changes():
    theirs, ours = package_network(), spared(package_network())
    assert list(ours.state_dict()) == list(theirs.state_dict())
    kinds = [type(module) for module in ours.modules()]
    assert (kinds.count(AtrousSeparable), kinds.count(Upsample), kinds.count(nn.Upsample)) == (3, 2, 0)
    built = [type(module) for module in DeepLabV3Plus(encoder=SMALL, channels=1, classes=4).modules()]
    assert (built.count(AtrousSeparable), built.count(Upsample), built.count(nn.Upsample)) == (3, 2, 0)


def test_a_map_within_the_rate_costs_a_pointwise_convolution_and_a_larger_one_both():
    layer = AtrousSeparable(*smp.decoders.deeplabv3.decoder.SeparableConv2d(8, 5, 3, padding=4, dilation=4, bias=False))
    for size, per_pixel in {4: 8 * 5, 5: 8 * 5 + 8 * 9}.items():
        with FlopCounterMode(display=False) as counter:
            layer(torch.zeros(1, 8, size, size))
        scaled = counter.get_total_flops() / (2 * size * size)
        assert scaled == per_pixel


def test_a_bias_of_the_pointwise_convolution_is_added():
    layers = smp.decoders.deeplabv3.decoder.SeparableConv2d(8, 5, 3, padding=4, dilation=4, bias=True)
    image = torch.randn(2, 8, 4, 3)
    torch.testing.assert_close(AtrousSeparable(*layers)(image), layers(image))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, LARGEST + 3), st.integers(1, LARGEST + 3), st.integers(2, 5))
def test_upsampling_is_torch_s(height, width, scale):
    image = torch.randn(2, 3, height, width, dtype=torch.float64)
    expected = nn.functional.interpolate(image, scale_factor=scale, mode="bilinear", align_corners=True)
    torch.testing.assert_close(Upsample(scale)(image), expected, rtol=1e-9, atol=1e-9)


def test_what_is_interpolated_between_keeps_constants_and_ends():
    rows = between(7, 28)
    torch.testing.assert_close(rows.sum(1), torch.ones(28))
    assert torch.equal(rows[[0, -1]], torch.eye(7)[[0, -1]])


def test_half_precision_is_rounded_once():
    """Weights of an interpolation in bfloat16 would be off by 0.4 %, and a constant no constant."""
    image = torch.full((1, 2, 5, 7), 3.140625, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = Upsample(4)(image)
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, torch.full((1, 2, 20, 28), 3.140625, dtype=torch.bfloat16))


def test_other_layers_stay_as_they_are():
    others = nn.Sequential(
        nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False), nn.Conv2d(4, 2, 1)),  # of rate 1
        nn.Sequential(nn.Conv2d(4, 4, 3, padding=4, dilation=4), nn.Conv2d(4, 2, 1)),  # not depthwise
        nn.Sequential(nn.Conv2d(4, 4, 3, dilation=4, groups=4, bias=False), nn.Conv2d(4, 2, 1)),  # no padding
        nn.Sequential(nn.Conv2d(4, 4, 3, padding=4, dilation=4, groups=4), nn.Conv2d(4, 2, 1)),  # a bias
        nn.Sequential(nn.Conv2d(4, 4, 3, padding=(9, 2), dilation=(9, 2), groups=4, bias=False), nn.Conv2d(4, 2, 1)),
        nn.Sequential(
            nn.Conv2d(4, 4, 3, padding=4, dilation=4, groups=4, bias=False, padding_mode="replicate"),
            nn.Conv2d(4, 2, 1),
        ),
        nn.Upsample(scale_factor=4, mode="bilinear"),
        nn.Upsample(scale_factor=4),
        nn.Upsample(scale_factor=2.5, mode="bilinear", align_corners=True),
        nn.Upsample(size=(8, 8), mode="bilinear", align_corners=True),
    )
    kinds = [type(module) for module in others.modules()]
    spare_small_maps(others)
    assert [type(module) for module in others.modules()] == kinds
