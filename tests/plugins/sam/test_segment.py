"""Inference: prompts, everything in an image, tiles, and the command."""

import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lamella import Batch
from lamella.cli.main import main
from lamella.engine.evaluate import predict_whole
from lamella.engine.experiment import FitConfig
from lamella.errors import ContractError, DataError
from lamella.registry.registry import current
from lamella_sam import segment, segment_command
from lamella_sam.nano.network import sam_nano
from lamella_sam.prompting import mask_logits
from lamella_sam.prompts import box_prompts, point_prompts
from lamella_sam.segment import Found, ask, everything
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode


class Perfect:
    """A network that knows the objects: the mask of a click is the object under it."""

    def __init__(self, ids):
        self.ids, self.seen = ids, None

    def embed(self, image):
        self.seen = image[0, 0].mul(100).round().long()  # the image holds the ids
        return torch.zeros(1, 1, 1, 1)

    def masks(self, embedding, prompts):
        x, y = prompts.points[0, :, 0].round().long().unbind(-1)
        mask = torch.where((self.seen == self.seen[y, x].view(-1, 1, 1)) & (self.seen > 0), 5.0, -5.0)
        logits = mask.unsqueeze(1).repeat(1, 4, 1, 1).unsqueeze(0)
        return logits, torch.full(logits.shape[:3], 0.9)

    def enlarge(self, logits, size):
        return logits


def scene(side=96):
    ids = torch.zeros(side, side, dtype=torch.int64)
    ids[4:30, 6:40], ids[50:90, 10:30], ids[40:60, 60:92], ids[62:64, 62:64] = 1, 2, 3, 4
    return ids, ids.float().div(100).view(1, 1, side, side)


@pytest.mark.parametrize("tile", [96, 64])
def test_everything_finds_every_object_once_whole_and_in_tiles(tile):
    ids, image = scene()
    found = everything(Perfect(ids), image, grid=12, tile=tile)
    assert len(found.quality) == 3  # the fourth has 4 pixels, below the smallest
    for number in (1, 2, 3):
        assert any(torch.equal(mask, ids == number) for mask in found.mask)


@pytest.mark.parametrize(("half", "found"), [(6, 1), (20, 0)])
def test_an_object_wider_than_the_overlap_can_be_cut_in_both_tiles(half, found):
    ids = torch.zeros(32, 112, dtype=torch.int64)
    ids[8:24, 56 - half : 56 + half] = 1  # columns 48 to 63 are in both tiles
    image = ids.float().div(100).view(1, 1, 32, 112)
    assert len(everything(Perfect(ids), image, grid=16, tile=64).quality) == found
    assert len(everything(Perfect(ids), image, grid=16, tile=112).quality) == 1


def test_nothing_is_found_in_an_empty_image():
    ids, _ = scene()
    found = everything(Perfect(ids), torch.zeros(1, 1, 96, 96), grid=4)
    assert found.mask.shape == (0, 96, 96) and not found.instances().any()


def test_doubles_are_dropped_and_the_better_stays():
    mask = torch.zeros(3, 10, 10, dtype=torch.bool)
    mask[0, :5], mask[1, :5], mask[1, 0, 0], mask[2, 6:] = True, True, False, True
    assert segment._without_doubles(segment._patches(mask, 0, 0), torch.tensor([0.6, 0.9, 0.7]), 0.7) == [1, 2]


@pytest.mark.parametrize("overlap", [0.1, 0.3, 0.5])
def test_doubles_of_patches_are_those_of_whole_masks(overlap):
    """Blobs in two parts of an image that overlap, against each mask in the whole image."""
    generator = torch.Generator().manual_seed(0)
    y, x = torch.arange(40).view(-1, 1), torch.arange(40)
    masks, patches = [], []
    for top in (0, 20):
        place, radius = 40 * torch.rand(60, 2, generator=generator), 3 + 6 * torch.rand(60, generator=generator)
        part = torch.stack([(y - a) ** 2 + (x - b) ** 2 < r * r for (a, b), r in zip(place, radius)])
        patches += segment._patches(part, top, 0)
        masks += [torch.nn.functional.pad(one, (0, 0, top, 20 - top)) for one in part]
    quality = torch.rand(120, generator=generator).mul(20).round()  # some alike
    kept = []
    for number in quality.argsort(descending=True, stable=True).tolist():
        shared = [((masks[k] & masks[number]).sum() / (masks[k] | masks[number]).sum()).item() for k in kept]
        if all(share <= overlap for share in shared):
            kept.append(number)
    assert 10 < len(kept) < 115 and segment._without_doubles(patches, quality, overlap) == kept


class Largest(TorchDispatchMode):
    """The elements of the largest tensor that is made."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor):
            self.elements = max(self.elements, made.untyped_storage().nbytes() // made.element_size())
        return made


def test_no_candidate_is_held_in_the_size_of_the_whole_image():
    ids = torch.zeros(192, 192, dtype=torch.int64)
    ids[8::24, 8::24] = torch.arange(1, 65).view(8, 8)
    ids = torch.nn.functional.max_pool2d(ids[None].float(), 13, 1, 6)[0].long()
    with Largest() as seen:
        found = everything(Perfect(ids), ids.float().div(100).view(1, 1, 192, 192), grid=8, tile=64)
    assert len(found.quality) == 64 and seen.elements < 4 * 64 * 192 * 192


def test_smaller_objects_lie_on_top():
    mask = torch.zeros(2, 4, 4, dtype=torch.bool)
    mask[0, 1:3, 1:3], mask[1] = True, True
    assert Found(mask, torch.tensor([0.5, 0.9])).instances().tolist()[1] == [2, 1, 1, 2]


def test_asking_gives_one_mask_per_prompt_in_the_image_s_size(nano):
    image = torch.rand(1, 1, 50, 70)
    with torch.no_grad():
        embedding = nano.embed(image)
    found = ask(
        nano, embedding, box_prompts(torch.tensor([[[5.0, 5.0, 20.0, 30.0], [0.0, 0.0, 69.0, 49.0]]]), (50, 70))
    )
    assert found.mask.shape == (2, 50, 70) and found.quality.shape == (2,)
    with pytest.raises(DataError, match="lies outside of the image of 50×70"):
        ask(nano, embedding, point_prompts(torch.tensor([[[[60.0, 55.0]]]]), torch.ones(1, 1, 1).long(), (50, 70)))


def test_an_image_of_one_row_is_refused(nano):
    with pytest.raises(ContractError, match="cannot be segmented"):
        nano.embed(torch.rand(1, 1, 1, 64))


def command(*words):
    try:
        main(["segment", *map(str, words)])
    except SystemExit as end:
        return end.code or 0
    return 0


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    image = np.full((64, 80), 60, np.uint8)
    image[20:40, 30:60] = 200
    Image.fromarray(image).save(path)
    return path


def test_the_command_writes_instances_and_an_overlay(photo, tmp_path, capsys):
    done = command(photo, "--out", tmp_path / "out", "--weights", "none", "--box", "30,20,59,39", "--box", "0,0,9,9")
    assert done == 0 and "2 objects" in capsys.readouterr().out
    ids = np.asarray(Image.open(tmp_path / "out" / "photo.instances.png"))
    assert ids.shape == (64, 80) and ids.max() <= 2
    assert command(photo, "--out", tmp_path / "all", "--weights", "none", "--grid", 4) == 0
    assert (tmp_path / "all" / "photo.overlay.png").is_file()
    capsys.readouterr()
    assert command(photo, "--out", photo, "--weights", "none", "--box", "0,0,9,9") == 2
    assert capsys.readouterr().err == f"lamella: --out {photo} is a file; name a folder\n"


def lot(folder, damaged):
    """Three images in a folder, of which the first ones are cut off."""
    folder.mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 255, (40, 50), np.uint8)
        Image.fromarray(pixels).save(folder / f"im{number}.png")
    for path in sorted(folder.iterdir())[:damaged]:
        path.write_bytes(path.read_bytes()[:60])
    return folder


def test_files_that_cannot_be_read_are_told_and_the_others_are_done(tmp_path, capsys):
    images, out = lot(tmp_path / "lot", damaged=1), tmp_path / "out"
    assert command(images, "--out", out, "--weights", "none", "--box", "5,5,30,30") == 0
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert lines[-2] == f"2 of 3 segmented into {out}" and lines[-1].startswith(f"not segmented: {images / 'im0.png'}")
    assert said.err == lines[-1] + "\n"
    assert {path.name for path in out.glob("*.instances.png")} == {"im1.instances.png", "im2.instances.png"}


@pytest.mark.parametrize(("damaged", "given"), [(3, "."), (1, "im0.png")], ids=["none of several", "a single one"])
def test_where_nothing_can_be_read_the_command_fails(tmp_path, capsys, damaged, given):
    images, out = lot(tmp_path / "lot", damaged), tmp_path / "out"
    assert command(images / given, "--out", out, "--weights", "none", "--box", "5,5,30,30") == 2
    lines = capsys.readouterr().err.splitlines()
    if damaged == 1:
        assert len(lines) == 1 and lines[0].startswith(f"lamella: {images / 'im0.png'}")
    else:
        assert [line.startswith("not segmented: ") for line in lines] == [True, True, True, False]
        assert lines[3].startswith("lamella: none of the 3 images can be segmented")
    assert not out.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="a name that is no UTF-8")
def test_a_file_whose_name_cannot_be_printed_is_told_too(tmp_path):
    images = lot(tmp_path / "lot", damaged=1)
    (images / "im0.png").rename(images / os.fsdecode(b"im\xff.png"))
    words = ["segment", images, "--out", tmp_path / "out", "--weights", "none", "--box", "5,5,30,30"]
    done = subprocess.run([sys.executable, "-m", "lamella", *words], capture_output=True, text=True)
    told = r"not segmented: " + str(images) + r"/im\udcff.png"
    assert (done.returncode, done.stdout.count(told)) == (0, 1), done.stderr


@pytest.mark.parametrize("spoiled", [None, (40, 50), (41, 50), (40, 50, 3)], ids=str)
def test_marks_that_cannot_be_used_leave_out_their_image(tmp_path, capsys, spoiled):
    """Cut off, blank, of another size, or in colours."""
    images, marks = lot(tmp_path / "lot", damaged=0), lot(tmp_path / "marks", damaged=spoiled is None)
    if spoiled is not None:
        Image.fromarray(np.full(spoiled, len(spoiled) - 2, np.uint8)).save(marks / "im0.png")
    assert command(images, "--out", tmp_path / "out", "--weights", "none", "--mask", marks) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"not segmented: {marks / 'im0.png'}")
    assert len(list((tmp_path / "out").glob("*.instances.png"))) == 2


def test_an_image_that_a_prompt_lies_outside_of_is_named_and_the_others_are_done(tmp_path, capsys):
    images, out = lot(tmp_path / "lot", damaged=0), tmp_path / "out"
    Image.fromarray(np.zeros((20, 50), np.uint8)).save(images / "im1.png")
    assert command(images, "--out", out, "--weights", "none", "--point", "5,30") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2] == f"2 of 3 segmented into {out}"
    assert lines[-1].startswith(f"not segmented: {images / 'im1.png'}: prompt 0: the point (x 5, y 30) lies outside")
    assert {path.name for path in out.glob("*.instances.png")} == {"im0.instances.png", "im2.instances.png"}
    assert command(images / "im1.png", "--out", out, "--weights", "none", "--point", "5,30") == 2
    assert capsys.readouterr().err.startswith(f"lamella: {images / 'im1.png'}: prompt 0: the point (x 5, y 30)")


@pytest.mark.parametrize("words", [["--grid", 2], ["--box", "5,0,9,1"]], ids=["everything", "a box"])
def test_an_image_of_one_row_is_named_and_the_others_are_done(tmp_path, capsys, words):
    images, out = lot(tmp_path / "lot", damaged=0), tmp_path / "out"
    Image.fromarray(np.arange(50, dtype=np.uint8).reshape(1, 50)).save(images / "im1.png")
    assert command(images, "--out", out, "--weights", "none", *words) == 0
    told = f"{images / 'im1.png'}: 1×50 pixels are too few to segment; an image needs 2×2 at least\n"
    assert capsys.readouterr().out.endswith(f"not segmented: {told}")
    assert len(list(out.glob("*.instances.png"))) == 2
    assert command(images / "im1.png", "--out", out, "--weights", "none", *words) == 2
    assert capsys.readouterr().err == f"lamella: {told}"


def test_nothing_is_segmented_into_the_folder_of_the_images(tmp_path, capsys):
    images = lot(tmp_path / "lot", damaged=0)
    for given in (images, images / "im1.png"):
        assert command(given, "--out", tmp_path / "x" / ".." / "lot", "--weights", "none", "--box", "5,5,30,30") == 2
        assert "holds the images" in capsys.readouterr().err
    assert len(list(images.iterdir())) == 3


@pytest.mark.parametrize(
    ("words", "count", "more"),
    [
        (["--box", "30,20,59,39", "--box", "0,0,9,9"], "2 objects", ""),
        (["--box", "30,20,59,39"] * 2, "1 object", "wholly under others: --box 30,20,59,39"),
        (["--box", "0,0,79,63", "--box", "30,20,59,39"], "1 object", "nothing found for --box 0,0,79,63"),
        (["--point", "40,30", "--point", "40,30,0"], "0 objects", "nothing found for --point 40,30 --point 40,30,0"),
    ],
)
def test_the_count_is_of_the_map_and_lost_prompts_are_named(photo, tmp_path, capsys, monkeypatch, words, count, more):
    """A network that finds what fills a box, but not in the whole image, and nothing where two clicks disagree."""

    def answer(network, embedding, prompts):
        mask = torch.zeros(prompts.number, 64, 80, dtype=torch.bool)
        for one, (start, end) in zip(mask, prompts.points[0, :, :2].long().tolist()):
            if start != end and end != [79, 63]:
                one[start[1] : end[1] + 1, start[0] : end[0] + 1] = True
        return Found(mask, torch.ones(prompts.number))

    monkeypatch.setattr(segment, "ask", answer)
    assert command(photo, "--out", tmp_path / "out", "--weights", "none", *words) == 0
    told = f"photo: {count} in {tmp_path / 'out' / 'photo.instances.png'}\n"
    assert capsys.readouterr().out == told + (f"photo: {more}\n" if more else "")
    ids = np.unique(np.asarray(Image.open(tmp_path / "out" / "photo.instances.png")))
    assert np.count_nonzero(ids) == int(count[0])


def marks_of(path, dtype=np.uint8):
    marks = np.zeros((64, 80), dtype)
    marks[24:36, 36:54], marks[2:8, 2:10] = 7, 3
    Image.fromarray(marks).save(path)
    return marks


@pytest.mark.parametrize("words", [[], ["--point", "20,20"]], ids=["everything", "a click"])
def test_the_network_and_what_it_is_asked_go_to_the_accelerator(photo, tmp_path, monkeypatch, words):
    """``meta`` stands for a GPU: nothing can be computed there, so what the network answers is made up."""
    elsewhere, seen = torch.device("meta"), set()

    def answer(network, *given, **_):
        tensors = [*network.parameters(), *network.buffers(), given[0], *(given[1] if given[1:] else ())]
        seen.update(one.device for one in tensors if isinstance(one, torch.Tensor))
        return Found(torch.ones(1, 64, 80, dtype=torch.bool), torch.ones(1))

    monkeypatch.setattr("lamella.engine.session.make_accelerator", lambda _: SimpleNamespace(device=elsewhere))
    monkeypatch.setattr(segment, "everything" if not words else "ask", answer)
    assert command(photo, *words, "--out", tmp_path / "out") == 0 and seen == {elsewhere}


def test_marks_become_a_mask_prompt_each_in_the_order_of_their_values(nano, tmp_path):
    marks = marks_of(tmp_path / "marks.png", np.uint16)
    prompts = segment_command._mask_prompts(nano, marks, (64, 80))
    assert prompts.number == 2 and (prompts.labels < 0).all()
    assert segment_command._words([], [], marks) == ["value 3 of --mask", "value 7 of --mask"]
    marked = nano.enlarge(prompts.mask, (64, 80))[0] > 0
    for got, value in zip(marked.numpy(), (3, 7)):
        wanted = marks == value
        assert (got & wanted).sum() > 0.8 * (got | wanted).sum()


def test_the_command_takes_marks_of_a_file_or_a_folder(photo, tmp_path, capsys):
    (tmp_path / "marks").mkdir()
    marks_of(tmp_path / "marks" / "photo.png")
    for given in (tmp_path / "marks", tmp_path / "marks" / "photo.png"):
        assert command(photo, "--out", tmp_path / given.stem, "--mask", given) == 0
        assert "photo: 2 objects" in capsys.readouterr().out
    ids = [np.asarray(Image.open(tmp_path / name / "photo.instances.png")) for name in ("marks", "photo")]
    assert np.array_equal(*ids)
    truth = np.zeros((64, 80), bool)
    truth[20:40, 30:60] = True
    assert ((ids[0] == 2) & truth).sum() > 0.7 * ((ids[0] == 2) | truth).sum()  # the shipped network finds the rest


@pytest.mark.parametrize(
    ("marks", "message"),
    [
        (np.zeros((64, 80), np.uint8), "it marks no pixel"),
        (np.ones((64, 81), np.uint8), "64×81 pixels, its image has 64×80"),
        (np.ones((64, 80, 3), np.uint8), "this file has colours"),
    ],
)
def test_marks_that_cannot_be_used_end_in_a_sentence(photo, tmp_path, capsys, marks, message):
    Image.fromarray(marks.astype(np.uint8)).save(tmp_path / "marks.png")
    assert command(photo, "--out", tmp_path / "out", "--size", 80, "--mask", tmp_path / "marks.png") == 2
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.parametrize("stroke", [(slice(100, 101), slice(60, 180)), (slice(100, 102), slice(90, 91))])
def test_a_thin_stroke_is_a_mark(tmp_path, capsys, stroke):
    """A cell of sam-nano's mask grid is 4 pixels of this image wide."""
    y, x = np.mgrid[:256, :256]
    pixels = np.where((y - 125) ** 2 + (x - 120) ** 2 < 80**2, 200, 60)
    Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "a.png")
    marks = np.zeros((256, 256), np.uint8)
    marks[stroke] = 1
    Image.fromarray(marks).save(tmp_path / "marks.png")
    assert command(tmp_path / "a.png", "--out", tmp_path / "out", "--mask", tmp_path / "marks.png") == 0
    assert "a: 1 object in" in capsys.readouterr().out


def test_a_mark_is_given_as_training_gives_it_and_a_thin_one_by_what_it_touches(nano):
    y, x = np.mgrid[:50, :70]
    values = np.where((y - 20) ** 2 + (x - 30) ** 2 < 90, 1, 0)
    values[45, 10:60] = 2
    masks = torch.from_numpy(np.stack([values == 1, values == 2])).unsqueeze(0)
    found = segment_command._mask_prompts(nano, values, (50, 70)).mask
    assert torch.equal(found[:, 0], mask_logits(nano.reduce(masks.float()))[:, 0])
    assert torch.equal(found[:, 1], mask_logits(nano.touched(masks))[:, 1])
    assert not torch.equal(found[:, 0], mask_logits(nano.touched(masks))[:, 0])


def test_every_cell_that_a_mark_touches_is_marked(nano):
    mask = torch.zeros(1, 1, 50, 70, dtype=torch.bool)
    mask[0, 0, 7, 11], mask[0, 0, 49, 69] = True, True
    for backbone, cell in ((nano, 2.0), (sam_nano(weights="none", size=32), 2 * 70 / 32)):
        found = backbone.touched(mask)
        assert found.shape == backbone.reduce(mask.float()).shape and set(found.unique().tolist()) == {0.0, 1.0}
        for y, x in ((7, 11), (49, 69)):
            assert found[0, 0, int((y + 0.5) / cell), int((x + 0.5) / cell)] == 1
        assert found.sum() <= 8


def test_a_folder_of_marks_needs_one_for_every_image(photo, tmp_path, capsys):
    (tmp_path / "marks").mkdir()
    marks_of(tmp_path / "marks" / "other.png")
    assert command(photo, "--out", tmp_path / "out", "--mask", tmp_path / "marks") == 2
    assert "there is no mask named photo (1 of 1 lack one)" in capsys.readouterr().err


def test_sam_nano_is_asked_in_its_trained_size_unless_another_is_given():
    sizes = [segment_command._network(None, "sam-nano", "none", size)[0].size for size in (None, 64)]
    assert sizes == [128, 64]


@pytest.mark.parametrize(("size", "sees"), [(128, "trained"), ("native", "tiles")])
def test_a_network_that_scales_images_says_so_to_who_evaluates(size, sees):
    settings = {"name": "sesami", "backbone": {"name": "sam-nano", "weights": "none", "size": size}}
    trainer = current().plan("trainer", settings, "here").build(data={"class_names": ["a", "b"]})
    assert trainer.sees == sees
    image = torch.rand(1, 1, 300, 200)
    assert trainer.backbone.embed(image).shape[-1] == (16 if sees == "trained" else -(-300 // 8))


@pytest.mark.parametrize(
    ("settings", "sees"),
    [
        ({"name": "sesami"}, "tiles"),
        ({"name": "sesami", "answer": "box"}, "whole"),
        ({"name": "prompted-supervised", "backbone": {"name": "deeplabv3plus", "channels": 3}}, "whole"),
    ],
)
def test_prompts_from_labels_are_answered_on_whole_images(settings, sees):
    settings = {"backbone": {"name": "sam-nano", "weights": "none", "size": "native"}, **settings}
    data = {"class_names": ["a", "b"], "channels": 1, "classes": 2}
    trainer = current().plan("trainer", settings, "here").build(data=data).eval()
    assert trainer.sees == sees
    label = torch.zeros(1, 40, 90, dtype=torch.int64)
    label[:, 10:30, 50:80] = 1
    with torch.no_grad():
        tile = FitConfig(crop=64, tile=64).tile_for(trainer)
        assert predict_whole(trainer, Batch.of(torch.rand(1, 1, 40, 90), label=label), tile).shape == (1, 2, 40, 90)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--point", "5"], "'5' must be 2 or 3 numbers"),
        (["--point", "5,5,7"], "'5,5,7': the third number of a click is 1"),
        (["--point", "5,5,0.5"], "is 1, on the object, or 0"),
        (["--box", "a,b,c,d"], "must be 4 numbers"),
        (["--point", "100,5"], "lies outside of the image of 64×80"),
        (["--point", "1,1", "--box", "0,0,2,2"], "not both"),
        (["--box", "0,0,2,2", "--mask", "marks.png"], "give --box or --mask, not both"),
        (["--mask", "nothing.png"], "there is no such file"),
        (["--size", "50", "--point", "1,1"], "must be a multiple of the patch, 8 pixels"),
        (["--size", "64", "--run", "runs/one"], "a run has its own network, weights and size"),
        (["--backbone", "sam-vit-h", "--run", "runs/one"], "--backbone is for a network without a run"),
        (["--weights", "none", "--run", "runs/one"], "--weights is for a network without a run"),
        (["--point", "1,1", "--grid", "3"], "--grid is about finding every object; leave it out beside --point"),
        (["--box", "0,0,2,2", "--quality", "0.5"], "--quality is about finding every object"),
        (["--mask", "marks.png", "--tile", "64"], "--tile is about finding every object"),
        (["--backbone", "sam-vit-b", "--weights", "nothing.pth"], "there is no such file"),
    ],
)
def test_mistakes_end_in_a_sentence(photo, tmp_path, capsys, words, message):
    assert (
        command(photo, "--out", tmp_path / "out", *(["--weights", "none"] if "--weights" not in words else []), *words)
        == 2
    )
    assert message in capsys.readouterr().err
