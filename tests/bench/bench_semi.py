"""Target 6: our semi-supervised step against the published body of UniMatch, and what perturbations cost in a step.

Both sides interleaved in one process, the figure is the median of the rounds' ratios. Where only some steps try the
sets, those and the others are timed by themselves and count as often as they come. The published body gets its strong
views ready made, as from its loader, so ours runs without perturbations there.
"""

import time
from statistics import median

import pytest
import torch
from lamella import Batch, Chain, Step
from lamella.registry.registry import current
from lamella_tem import deeplab
from lamella_tem.anchored import anchored
from lamella_tem.deeplab import DeepLabV3Plus
from lamella_tem.weak_to_strong import WeakToStrong
from torch.nn.functional import cross_entropy

CLASSES = ["silicon", "oxide", "nitride", "metal", "liner", "defect"]
ROUNDS, SIZE, IMAGES, TAU = 9, 128, 4, 0.95


ENGAGED = {"select": "max-loss", "probe_every": 8, "probe_scale": 0.5}
"""The paper's step: of several strong views the hardest, here tried every eighth step at half size."""

SMALL, PAPER = "tu-mobilenetv3_small_100", "resnet50"


def network(seed=0, encoder=SMALL, norm="group"):
    torch.manual_seed(seed)
    return DeepLabV3Plus(encoder=encoder, norm=norm, dropout=0.0, channels=1, classes=len(CLASSES))


def ours(sets, net, **options):
    torch.manual_seed(0)
    settings = {"tau": TAU, "select": "mean", "mix": 0.0, "drop": 0.0, **options}
    return WeakToStrong(backbone=net, sets=sets, losses={"ce": _ce}, class_names=CLASSES, **settings)


def _ce(logits, label, weight, /):
    return cross_entropy(logits, label, ignore_index=255)


def batches(seed=0):
    torch.manual_seed(seed)
    label = torch.randint(0, len(CLASSES), (IMAGES, SIZE, SIZE))
    return {
        "labelled": Batch.of(torch.rand(IMAGES, 1, SIZE, SIZE), label=label),
        "unlabelled": Batch.of(torch.rand(IMAGES, 1, SIZE, SIZE), key=torch.arange(IMAGES) + 10),
    }


def published(net, found, mixed, box):
    """The step of unimatch.py (V1), its loader's part left out: views, partner images and boxes are given.

    Source: github.com/LiheYoung/UniMatch, unimatch.py.
    """
    model = lambda image: net.decode(net.encode(image), (SIZE, SIZE))  # noqa: E731
    x, y, u = found["labelled"].image, found["labelled"].label, found["unlabelled"].image
    ignore = torch.zeros_like(y)
    with torch.no_grad():
        pred_mix = model(mixed).detach()
        conf_mix, mask_mix = pred_mix.softmax(1).max(1)[0], pred_mix.argmax(1)
    s1, s2 = u.clone(), u.clone()
    for strong in (s1, s2):
        strong[box.unsqueeze(1).expand(strong.shape) == 1] = mixed[box.unsqueeze(1).expand(mixed.shape) == 1]
    features = net.encode(torch.cat((x, u)))
    preds, preds_fp = net.decode([torch.cat((f, f)) for f in features], (SIZE, SIZE)).chunk(2)
    pred_x, pred_w = preds.split([IMAGES, IMAGES])
    pred_fp = preds_fp[IMAGES:]
    pred_s1, pred_s2 = model(torch.cat((s1, s2))).chunk(2)
    pred_w = pred_w.detach()
    conf, mask = pred_w.softmax(1).max(1)[0], pred_w.argmax(1)
    mask1, conf1, ignore1 = mask.clone(), conf.clone(), ignore.clone()
    mask2, conf2, ignore2 = mask.clone(), conf.clone(), ignore.clone()
    for one_mask, one_conf, one_ignore in ((mask1, conf1, ignore1), (mask2, conf2, ignore2)):
        one_mask[box == 1] = mask_mix[box == 1]
        one_conf[box == 1] = conf_mix[box == 1]
        one_ignore[box == 1] = ignore[box == 1]
    loss_x = cross_entropy(pred_x, y, ignore_index=255)

    def unsupervised(pred, target, confidence, ignored):
        each = cross_entropy(pred, target, reduction="none") * ((confidence >= TAU) & (ignored != 255))
        return each.sum() / (ignored != 255).sum().item()

    loss_1 = unsupervised(pred_s1, mask1, conf1, ignore1)
    loss_2 = unsupervised(pred_s2, mask2, conf2, ignore2)
    loss_fp = unsupervised(pred_fp, mask, conf, ignore)
    loss = (loss_x + loss_1 * 0.25 + loss_2 * 0.25 + loss_fp * 0.5) / 2.0
    for value in (loss, loss_x, (loss_1 + loss_2) / 2.0, loss_fp):  # its meters
        value.item()
    return loss


def ratio(one, other):
    """Median of other / one, and both median times in seconds."""
    one(), other()
    times = []
    for place in range(ROUNDS):
        pair = {}
        for run in (one, other) if place % 2 else (other, one):
            begun = time.perf_counter()
            run()
            pair[run] = time.perf_counter() - begun
        times.append((pair[one], pair[other]))
    return median(b / a for a, b in times), *(median(side) for side in zip(*times))


def ratio_of_steps(one, other, every):
    """As `ratio`, of steps that a number is given to, of which every so many-th tries the sets."""
    shares = {0: 1 / every, 1: 1 - 1 / every}
    found = [(share, *ratio(lambda: one(n), lambda: other(n))) for n, share in shares.items() if share]  # noqa: B023
    times = [sum(share * each[side] for share, *each in found) for side in (1, 2)]
    return 1 / sum(share / gain for share, gain, *_ in found), *times


def package_network(**settings):
    """The same network, its layers those of segmentation-models-pytorch."""
    with pytest.MonkeyPatch.context() as as_it_is:
        as_it_is.setattr(deeplab, "spare_small_maps", lambda net: None)
        return network(**settings)


class Against:
    """Our step with two empty sets beside one of UniMatch's published body, each with a network of its own."""

    def __init__(self, encoder, norm, their_network=package_network, **options):
        self.net, self.twin = network(encoder=encoder, norm=norm), their_network(encoder=encoder, norm=norm)
        self.options = {"statistics": "all", **options}
        self.found, self.mixed = batches(), batches(1)["unlabelled"].image

    def check(self, tolerance):
        """Both have the same loss where every pixel is trusted and nothing is mixed."""
        with pytest.MonkeyPatch.context() as everything_confident:
            everything_confident.setitem(globals(), "TAU", 0.0)
            same = self._ours(False)(0), self._theirs(torch.zeros(IMAGES, SIZE, SIZE), False)()
        assert torch.allclose(*same, rtol=tolerance), f"they do not compute the same: {same}"

    def gain(self, here=False, there=False):
        """In words: how many steps of ours, in bf16 or not, take the time of one of theirs, in bf16 or not."""
        box = torch.zeros(IMAGES, SIZE, SIZE)
        box[:, 20:70, 30:90] = 1.0
        step, theirs = self._ours(here, mix=0.5), self._theirs(box, there)
        gain, fast, slow = ratio_of_steps(step, lambda _: theirs(), self.options.get("probe_every", 1))
        return f"{gain:.2f}× ({fast:.3f} against {slow:.3f} s)"

    def _ours(self, half, **options):
        trainer = ours([Chain([]), Chain([])], self.net, **self.options, **options)
        return stepped(trainer, self.found, half)

    def _theirs(self, box, half):
        return _stepped(lambda: published(self.twin, self.found, self.mixed, box), self.twin, half)


def _stepped(loss_of, network, half=False):
    def run(*number):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            loss = loss_of(*number)
        loss.backward()
        network.zero_grad(set_to_none=True)
        return loss.detach()

    return run


def stepped(trainer, found, half=False):
    """A step of ours, to be called with its number."""
    return _stepped(lambda number: trainer(found, Step(number, 100, 0))["loss"], trainer, half)


@pytest.mark.parametrize("their_network", [package_network, network])
@pytest.mark.parametrize("norm", ["group", "batch"])
def test_our_step_against_the_published_body(norm, their_network):
    """Two strong views in both. Where features are dropped batch norm sees unlabelled images alone in ours, labelled
    ones too in theirs."""
    bench = Against(SMALL, norm, their_network)
    bench.check({"group": 1e-5, "batch": 5e-3}[norm])
    layers = "the package's" if their_network is package_network else "our"
    print(f"\nstep over UniMatch's published body on {layers} layers, {norm} norm: {bench.gain()}")


@pytest.mark.parametrize("encoder, norm", [(SMALL, "group"), (SMALL, "batch"), (PAPER, "group"), (PAPER, "batch")])
def test_the_engaged_set_alone_against_the_published_body(encoder, norm):
    """Of views that are equal, as in the check, one has the loss of both."""
    bench = Against(encoder, norm, **ENGAGED)
    bench.check({"group": 1e-5, "batch": 5e-3}[norm])
    for here, there in ((False, False), (True, True), (True, False)):
        what = " against ".join("bf16" if half else "fp32" for half in (here, there))
        print(f"\n{encoder}, {norm} norm, engaged set alone, {what}: {bench.gain(here, there)}", flush=True)


def test_what_a_step_of_anchored_costs_beside_the_published_body():
    """Not the same computation: our method whole, perturbations and probes among it, and a body that gets its views."""
    registry, found, net, twin = current(), batches(), network(), package_network()
    sets = [registry.plan("chain", name, name).build() for name in ("sample", "post")]
    weak = registry.plan("chain", "weak", "weak").build()
    trainer = anchored(backbone=net, sets=sets, weak=weak, paste=["defect"], class_names=CLASSES)
    mixed, box = batches(1)["unlabelled"].image, torch.zeros(IMAGES, SIZE, SIZE)
    box[:, 20:70, 30:90] = 1.0

    def theirs():
        published(twin, found, mixed, box).backward()
        twin.zero_grad(set_to_none=True)

    gain, fast, slow = ratio_of_steps(stepped(trainer, found), lambda _: theirs(), trainer.choice.probe_every)
    print(f"\na step of UniMatch's published body over one of anchored: {gain:.2f}× ({slow:.3f} and {fast:.3f} s)")


@pytest.mark.parametrize("encoder, norm", [(SMALL, "group"), (SMALL, "batch"), (PAPER, "batch")])
def test_layers_for_small_maps_against_the_package_s(encoder, norm):
    """A supervised step of one network, forward and backward; equal to rounding (tests/plugins/tem)."""
    networks, found = [make(encoder=encoder, norm=norm) for make in (network, package_network)], batches()["labelled"]

    def step(net):
        logits = net.decode(net.encode(found.image), (SIZE, SIZE))
        cross_entropy(logits, found.label).backward()
        net.zero_grad(set_to_none=True)
        return logits

    ours, theirs = (step(net).detach() for net in networks)
    assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-4), "they do not compute the same"
    gain, fast, slow = ratio(*(lambda net=net: step(net) for net in networks))
    print(f"\n{encoder}, {norm} norm, a supervised step on our layers: {gain:.2f}× ({fast:.3f} against {slow:.3f} s)")


@pytest.mark.parametrize("encoder", [SMALL, PAPER])
def test_what_perturbations_cost_in_a_step(encoder):
    registry, found = current(), batches()
    sets = [registry.plan("chain", name, name).build() for name in ("sample", "machine", "post")]
    net = network(encoder=encoder)
    ways = {
        "one set by chance": {"select": "random"},
        "the hardest of three, tried every eighth step at half size": ENGAGED,
        "the hardest of three, tried in every step": {"select": "max-loss"},
    }
    for what, options in ways.items():
        plain, noisy = ours([Chain([])] * 3, net, **options), ours(sets, net, **options)
        every = options.get("probe_every", 1)
        cost, without, within = ratio_of_steps(stepped(plain, found), stepped(noisy, found), every)
        print(f"\n{encoder}, step with perturbations, {what}, over without: {cost:.3f} ({within:.3f}/{without:.3f} s)")
