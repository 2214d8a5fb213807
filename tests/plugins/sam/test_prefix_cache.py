"""Cached frozen blocks: the same losses and gradients, fewer passes, and nothing stale."""

import copy

import pytest
import torch
from lamella import Batch, Step
from lamella.engine.ema import Ema
from lamella.errors import ConfigError
from lamella.testing import trainer_contract
from lamella_sam.nano.network import sam_nano
from lamella_sam.prefix_cache import PrefixCache, hashes
from lamella_sam.sesami import Sesami

STEP = Step(0, 10, 3)


def build(**settings):
    torch.manual_seed(0)
    settings = {"late_blocks": 2, "rank": 2, "prompts": 3, "cache": 64, **settings}
    return Sesami(backbone=sam_nano(weights="none"), class_names=["a", "b", "c"], **settings)


def labelled():
    label = torch.zeros(4, 32, 32, dtype=torch.int64)
    label[:, 4:20, 4:12] = 1
    label[:, 18:28, 14:30] = 2
    noise = 0.1 * torch.rand(4, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    return Batch.of(label.float().div(2).unsqueeze(1) * 0.8 + noise, label=label, key=torch.tensor([5, 6, 7, 8]))


test_contract = trainer_contract(build, lambda: {"labelled": labelled()}, syncs=True)


def test_what_was_computed_under_autocast_is_not_what_is_wanted_without():
    cache, seen = PrefixCache(16), []
    image = torch.rand(2, 1, 4, 4)
    for cast in (True, False, True, False):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=cast):
            cache(image, lambda x, cast=cast: seen.append(cast) or x)
    assert seen == [True, False]


def test_losses_and_gradients_are_those_without_a_cache():
    """Over steps that learn, in batches of other make-up, so that images are found and missed in one batch."""
    cached, plain = build(), build(cache=0)
    plain.load_state_dict(cached.state_dict())
    optimizers = [torch.optim.AdamW([p for p in t.parameters() if p.requires_grad], 1e-2) for t in (cached, plain)]
    for number, which in enumerate([[0, 1], [1, 2], [0, 3], [3, 1], [2, 0]]):
        one = {"labelled": labelled().select(torch.tensor(which))}
        losses = []
        for trainer, optimizer in zip((cached, plain), optimizers):
            optimizer.zero_grad()
            losses.append(trainer(one, STEP._replace(number=number)))
            losses[-1]["loss"].backward()
        for name, value in losses[0].items():
            assert torch.allclose(value, losses[1][name], rtol=1e-5, atol=1e-7), (number, name)
        for (name, a), b in zip(cached.named_parameters(), plain.parameters()):
            if a.requires_grad:
                assert torch.allclose(a.grad, b.grad, rtol=1e-4, atol=1e-6), (number, name)
        for optimizer in optimizers:
            optimizer.step()


def test_an_image_goes_through_the_frozen_blocks_once(monkeypatch):
    trainer, passes = build(), []
    encoder = trainer.backbone.image_encoder
    plain = encoder.start
    monkeypatch.setattr(encoder, "start", lambda x: passes.append(len(x)) or plain(x))
    for which in ([0, 1], [1, 0], [1, 2], [0, 2]):
        trainer({"labelled": labelled().select(torch.tensor(which))}, STEP)
    assert passes == [2, 1]
    trainer.eval()
    trainer.predict(labelled().select(slice(0, 2)))  # test images come once: not kept, not looked for
    assert passes == [2, 1, 2]


def test_a_changed_image_or_weight_is_never_answered_from_before():
    trainer = build()
    encoder = trainer.backbone.image_encoder
    image = trainer.backbone.prepare(labelled().image)
    first = encoder.prefix(image)
    moved = image.clone()
    moved[0, 0, 3, 4] += 1e-6
    assert hashes(moved)[0] != hashes(image)[0] and torch.equal(hashes(moved)[1:], hashes(image)[1:])
    other = copy.deepcopy(trainer.state_dict())
    for name, value in other.items():
        if "blocks.0.mlp" in name:
            value.add_(0.1)
    trainer.load_state_dict(other)
    cache, encoder.cache = encoder.cache, None
    wanted, encoder.cache = encoder.prefix(image), cache
    assert not torch.allclose(first, wanted) and torch.equal(encoder.prefix(image), wanted)


def test_weights_averaged_for_a_look_leave_what_is_kept_alone(monkeypatch):
    trainer, passes, batch = build(), [], {"labelled": labelled()}
    encoder, averaged = trainer.backbone.image_encoder, Ema(trainer, 0.9)
    plain = encoder.start
    monkeypatch.setattr(encoder, "start", lambda x: passes.append(len(x)) or plain(x))
    trainer(batch, STEP)
    adapter = next(p for p in trainer.parameters() if p.requires_grad)
    learned = adapter.data.add_(1.0).clone()
    with averaged.in_use():
        assert not torch.equal(adapter, learned)
    assert torch.equal(adapter, learned)
    trainer(batch, STEP)
    assert passes == [4]


def test_pixels_that_change_places_are_another_image():
    image = torch.rand(1, 1, 8, 8)
    assert hashes(image) != hashes(image.flip(-1)) and hashes(image) != hashes(-image)


def test_the_least_recently_used_are_dropped_when_the_room_is_full():
    cache, calls = PrefixCache(1), []
    compute = lambda image: calls.append(len(image)) or image.expand(-1, 100, -1, -1) * 1.0  # noqa: E731
    images = torch.rand(4, 1, 32, 32)  # 400 KiB of tokens each: two fit
    for place in (0, 1, 0, 2, 0, 1):
        assert torch.equal(cache(images[place : place + 1], compute)[:, 0], images[place : place + 1, 0])
        assert cache.used <= cache.room
    assert len(calls) == 4  # 0, 1, 2 (drops 1), 1
    assert torch.equal(cache(images, compute)[:, 5], images[:, 0])
    small = PrefixCache(0)
    assert torch.equal(small(images, compute)[:, 5], images[:, 0]) and small.used == 0


def test_a_new_image_may_drop_another_of_its_batch():
    cache = PrefixCache(1)
    compute = lambda image: image.expand(-1, 100, -1, -1) * 1.0  # noqa: E731
    images = torch.rand(5, 1, 32, 32)  # 400 KiB of tokens each: two fit
    for which in ([0, 1], [2, 0], [3, 4, 2, 0]):
        assert torch.equal(cache(images[which], compute)[:, 0], images[which, 0])
        assert cache.used <= cache.room


def test_a_cache_without_frozen_blocks_is_refused():
    with pytest.raises(ConfigError, match="set late_blocks"):
        build(late_blocks=None)
