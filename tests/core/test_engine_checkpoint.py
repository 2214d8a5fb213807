"""Checkpoints: whole or not at all, loaded without executing anything, refused with advice."""

import json
import os
import pickle
import subprocess
import sys

import pytest
import torch
from lamella.engine.checkpoint import FORMAT, Checkpoints, check_format
from lamella.engine.whole import write_json, write_text
from lamella.errors import RunError
from torch import nn


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


@pytest.fixture
def saved(tmp_path):
    """Checkpoints with one, of step 5."""
    checkpoints, trainer = Checkpoints(tmp_path), net()
    optimizer = torch.optim.AdamW(trainer.parameters(), lr=0.1)
    trainer(torch.rand(2, 1, 8, 8)).sum().backward()
    optimizer.step()
    checkpoints.save("last", trainer, optimizer, {"step": 5, "best": 0.25})
    return checkpoints, trainer, optimizer


def test_weights_optimizer_and_state_come_back_as_they_were(saved):
    checkpoints, trainer, optimizer = saved
    other = net(1)
    fresh = torch.optim.AdamW(other.parameters(), lr=0.5)
    state = checkpoints.load("last", other, fresh)
    assert (state["step"], state["best"], state["format"]) == (5, 0.25, FORMAT)
    assert same(other, trainer)
    assert fresh.param_groups[0]["lr"] == 0.1
    for one, two in zip(fresh.state.values(), optimizer.state.values(), strict=True):
        assert all(torch.equal(one[name], two[name]) for name in two)


def test_a_new_checkpoint_takes_the_place_of_the_one_before_under_its_name_alone(saved):
    checkpoints, trainer, _ = saved
    checkpoints.save("best", trainer, None, {"step": 5, "best": None})
    checkpoints.save("last", net(3), None, {"step": 9, "best": None})
    assert sorted(path.name for path in checkpoints.folder.iterdir()) == [
        "best-00000005", "best.json", "last-00000009", "last.json",
    ]  # fmt: skip
    other = net(1)
    checkpoints.load("best", other)
    assert same(other, trainer)


@pytest.mark.parametrize("failing", ["save_file", "write_json"])
def test_a_save_that_fails_halfway_keeps_the_checkpoint_before(saved, monkeypatch, failing):
    checkpoints, trainer, _ = saved

    def fail(*args, **kwargs):
        raise OSError("No space left on device")

    monkeypatch.setattr(f"lamella.engine.checkpoint.{failing}", fail)
    with pytest.raises(OSError, match="space"):
        checkpoints.save("last", net(7), None, {"step": 6, "best": None})
    monkeypatch.undo()
    other = net(1)
    assert checkpoints.load("last", other)["step"] == 5
    assert same(other, trainer)


def test_a_save_that_is_killed_before_the_pointer_moves_keeps_the_checkpoint_before(saved, monkeypatch):
    checkpoints, _, _ = saved
    replace = os.replace

    def killed(source, target):
        if str(target).endswith("last.json"):
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.save("last", net(7), None, {"step": 6, "best": None})
    monkeypatch.undo()
    assert checkpoints.load("last", net(1))["step"] == 5
    checkpoints.save("last", net(7), None, {"step": 6, "best": None})
    assert checkpoints.load("last", net(1))["step"] == 6


def test_a_save_removes_what_killed_ones_have_left_and_nothing_of_a_process_that_is_alive(saved):
    checkpoints, trainer, _ = saved
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait()
    kept = {f".last-00000008.{os.getppid()}", f".best-00000008.{ended.pid}"}
    for name in {f".last-00000008.{ended.pid}", f".last-00000007.{os.getpid()}", *kept}:
        (checkpoints.folder / name).mkdir()
        (checkpoints.folder / name / "trainer.safetensors").write_bytes(b"half")
    checkpoints.save("last", trainer, None, {"step": 9, "best": None})
    assert {path.name for path in checkpoints.folder.iterdir()} == {*kept, "last-00000009", "last.json"}


def test_averaged_weights_are_the_ones_to_use_and_not_the_ones_to_go_on_with(saved):
    checkpoints, trainer, _ = saved
    averaged = {name: torch.zeros_like(value) for name, value in trainer.state_dict().items()}
    checkpoints.save("last", trainer, None, {"step": 6, "best": None}, averaged=averaged)
    use, resume = net(1), net(2)
    checkpoints.load_to_use("last", use)
    checkpoints.load("last", resume)
    assert all(value.abs().sum() == 0 for value in use.state_dict().values())
    assert same(resume, trainer)


def test_weights_that_are_tied_are_saved_and_loaded(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(3, 3), nn.Linear(3, 3)
            self.two.weight = self.one.weight

    Checkpoints(tmp_path).save("last", Tied(), None, {"step": 1})
    other = Tied()
    Checkpoints(tmp_path).load("last", other)
    assert other.one.weight is other.two.weight


def test_weights_of_another_network_are_refused_in_one_line(saved):
    with pytest.raises(RunError, match="do not fit this experiment") as raised:
        saved[0].load("last", nn.Sequential(nn.Conv2d(1, 4, 3)))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("file", ["trainer.safetensors", "state.json", "optimizer.pt"])
@pytest.mark.parametrize("damage", ["missing", "cut", "empty"])
def test_a_damaged_checkpoint_is_one_sentence(saved, file, damage):
    checkpoints, trainer, optimizer = saved
    path = checkpoints.folder / "last-00000005" / file
    whole = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(whole[: len(whole) // 2] if damage == "cut" else b"")
    with pytest.raises(RunError) as raised:
        checkpoints.load("last", trainer, optimizer)
    assert str(checkpoints.folder) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_an_optimizer_file_that_would_execute_something_is_refused(saved, tmp_path):
    checkpoints, trainer, optimizer = saved

    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'executed'}",)

    (checkpoints.folder / "last-00000005" / "optimizer.pt").write_bytes(pickle.dumps(Evil(), 2))
    with pytest.raises(RunError):
        checkpoints.load("last", trainer, optimizer)
    assert not (tmp_path / "executed").exists()


def test_a_name_that_was_never_saved_is_refused(saved):
    assert (saved[0].has("last"), saved[0].has("best")) == (True, False)
    with pytest.raises(RunError, match="'best'"):
        saved[0].load("best", net())


@pytest.mark.parametrize(
    ("found", "advice"),
    [(FORMAT + 1, "install a newer Lamella"), (FORMAT - 1, "train it again"), (None, "train it again")],
)
def test_another_format_is_refused_with_what_to_do(saved, found, advice):
    checkpoints, trainer, _ = saved
    state = checkpoints.folder / "last-00000005" / "state.json"
    state.write_text(json.dumps({**json.loads(state.read_text()), "format": found}))
    with pytest.raises(RunError, match=f"format {found}.*reads {FORMAT}.*{advice}"):
        checkpoints.load("last", trainer)
    check_format(FORMAT, state)


def test_text_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "file.txt"
    write_text(path, "old")

    def killed(source, target):
        raise OSError("killed")

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(OSError, match="killed"):
        write_text(path, "new")
    assert path.read_text() == "old"


def test_json_keeps_letters_beyond_ascii(tmp_path):
    write_json(tmp_path / "a.json", {"größe": "µm"})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"größe": "µm"}
    assert "µm" in (tmp_path / "a.json").read_text(encoding="utf-8")
