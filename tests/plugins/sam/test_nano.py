"""sam-nano: its scenes, its network and its weights; and the classical answers it is measured against."""

import json

import numpy as np
import pytest
import torch
from lamella import Batch
from lamella.cli.main import main
from lamella.engine.experiment import check_experiment
from lamella.engine.fit import fit
from lamella.engine.run import open_run
from lamella.errors import ConfigError
from lamella.testing import dataset_contract
from lamella_sam import classical, losses
from lamella_sam.figures import test_objects as every_object
from lamella_sam.nano.drawn import OUTSIDE, WITHIN, drawn
from lamella_sam.nano.network import WEIGHTS, sam_nano
from lamella_sam.nano.scenes import sam_scenes, scene
from lamella_sam.prompts import ABSENT, NEGATIVE, NO_POINT, POSITIVE, Prompts, box_prompts
from safetensors.torch import save_file

test_contract_scenes = dataset_contract(lambda: sam_scenes(count=3, size=48))


def test_a_scene_depends_on_seed_index_and_size_alone():
    image, instance = scene(3, 7, 64)
    again, same = scene(3, 7, 64)
    assert np.array_equal(image, again) and np.array_equal(instance, same)
    assert not np.array_equal(image, scene(4, 7, 64)[0]) and not np.array_equal(image, scene(3, 8, 64)[0])


@pytest.mark.parametrize("index", range(6))
def test_ids_count_up_and_no_object_is_a_crumb(index):
    image, instance = scene(0, index, 64)
    numbers, counts = np.unique(instance[instance > 0], return_counts=True)
    assert numbers.tolist() == list(range(1, len(numbers) + 1)) and (counts >= 12).all()
    assert image.dtype == np.uint8 and image.std() > 0


def test_objects_can_be_seen_in_most_scenes():
    """Grey values differ between an object and its rim outside more than by chance."""
    gaps = []
    for index in range(12):
        image, instance = scene(1, index, 96)
        batch = Batch.of(torch.zeros(1, 1, 96, 96), instance=torch.from_numpy(instance)[None])
        for mask in every_object(batch.instance, batch.key).mask[0].numpy():
            near = np.pad(mask, 3)[3:-3, 3:-3]
            rim = np.zeros_like(near)
            for dy, dx in ((0, 4), (4, 0), (0, -4), (-4, 0)):
                rim |= np.roll(near, (dy, dx), (0, 1))
            rim &= ~near
            if rim.any():
                gaps.append(abs(image[near].mean() - image[rim].mean()))
    assert np.median(gaps) > 10


def test_the_network_is_small_and_its_parts_are_segment_anythings():
    from segment_anything.modeling import MaskDecoder, PromptEncoder

    network = sam_nano(weights="none")
    assert isinstance(network.prompt_encoder, PromptEncoder) and isinstance(network.mask_decoder, MaskDecoder)
    assert 2 * sum(v.numel() for v in network.state_dict().values()) < 8e6  # bytes in half precision


def test_the_shipped_weights_beat_the_box_and_random_weights_on_scenes_never_seen():
    shipped, random = sam_nano().eval(), sam_nano(weights="none").eval()
    assert WEIGHTS.stat().st_size < 8e6
    facts = json.loads(WEIGHTS.with_suffix(".json").read_text(encoding="utf-8"))
    assert all(stage["step"] > 0 and "sam-scenes" in stage["experiment"] for stage in facts["stages"])
    ious = {"shipped": [], "random": [], "box": []}
    for index in range(8):
        image, instance = scene(77, index, 128)
        batch = Batch.of(torch.from_numpy(image)[None, None] / 255, instance=torch.from_numpy(instance)[None])
        objects = every_object(batch.instance, batch.key)
        mask = objects.mask[0][:12]
        boxes = torch.stack([torch.tensor(_box(m.numpy())) for m in mask])
        prompts = box_prompts(boxes[None].float(), (128, 128))
        for name, network in (("shipped", shipped), ("random", random)):
            with torch.no_grad():
                logits, _ = network.masks(network.embed(batch.image), prompts)
            ious[name] += _iou(network.enlarge(logits[:, :, 0], (128, 128))[0] > 0, mask)
        y, x = torch.meshgrid(torch.arange(128), torch.arange(128), indexing="ij")
        inside = [(x >= b[0]) & (x <= b[2]) & (y >= b[1]) & (y <= b[3]) for b in boxes]
        ious["box"] += _iou(torch.stack(inside), mask)
    mean = {name: float(np.mean(values)) for name, values in ious.items()}
    assert mean["shipped"] > 0.4 > mean["random"] and mean["shipped"] > mean["random"] + 0.2, mean


def _box(mask):
    y, x = np.nonzero(mask)
    return [x.min(), y.min(), x.max(), y.max()]


def _iou(found, wanted):
    return ((found & wanted).flatten(1).sum(1) / (found | wanted).flatten(1).sum(1)).tolist()


def _train(folder, weights):
    tables = {
        "modality": "tem",
        "data": {"labelled": {"source": {"name": "sam-scenes", "count": 2, "size": 48}}},
        "trainer": {
            "name": "sesami", "backbone": {"name": "sam-nano", "weights": str(weights)}, "adapt": "full",
            "semantic": "none", "answer": "box", "objects": "instance", "prompts": 2, "corrections": 0,
            "weights": {"affinity": 0.5},
        },
        "fit": {"steps": 1, "batch_size": 2, "log_every": 1, "ema": 0.5},
    }  # fmt: skip
    fit(check_experiment(tables, name="nano", folder=folder), folder / "run")
    return folder / "run"


def _ship(run, out):
    with pytest.raises(SystemExit) as end:
        main(["sam-nano", str(run), "--out", str(out)])
    assert not end.value.code
    return json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))


def test_a_run_becomes_a_weights_file(tmp_path, capsys):
    run = _train(tmp_path, "none")
    facts = _ship(run, tmp_path / "nano.safetensors")
    assert "parameters" in capsys.readouterr().out
    found, of_run = sam_nano(weights=str(tmp_path / "nano.safetensors")), sam_nano(weights=str(run))
    for one, other in zip(found.state_dict().values(), of_run.state_dict().values()):
        assert torch.allclose(one, other, atol=1e-3, rtol=1e-3)
    assert [stage["step"] for stage in facts["stages"]] == [1]
    assert facts["parameters"] == sum(v.numel() for v in found.state_dict().values())


@pytest.mark.parametrize("begin_with", ["the run", "its file"])
def test_weights_keep_the_history_of_what_they_began_with(begin_with, tmp_path):
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    run, file = _train(tmp_path / "first", "none"), tmp_path / "first" / "nano.safetensors"
    before = _ship(run, file)["stages"]
    again = _train(tmp_path / "second", run if begin_with == "the run" else file)
    stages = _ship(again, tmp_path / "nano.safetensors")["stages"]
    assert len(stages) == 2 and stages[:1] == before
    assert str(tmp_path) not in json.dumps(stages)  # names, not somebody's folders


def test_a_run_is_opened_without_the_file_it_began_with(tmp_path):
    save_file(sam_nano(weights="none").state_dict(), tmp_path / "start.safetensors")
    run = _train(tmp_path, tmp_path / "start.safetensors")
    (tmp_path / "start.safetensors").unlink()
    _, trainer, _, _ = open_run(run)
    assert not trainer.training


def test_a_folder_that_is_no_run_is_no_weights(tmp_path):
    with pytest.raises(ConfigError, match="this is no run folder"):
        sam_nano(weights=str(tmp_path))


def test_a_run_without_a_backbone_is_not_shipped(tmp_path, capsys):
    (tmp_path / "run.json").write_text('{"format": 1}')
    (tmp_path / "experiment.toml").write_text('[trainer]\nname = "x"\n')
    with pytest.raises(SystemExit) as end:
        main(["sam-nano", str(tmp_path), "--out", str(tmp_path / "nano.safetensors")])
    assert end.value.code == 2 and "its trainer has no backbone" in capsys.readouterr().err


def test_a_box_is_drawn_as_what_lies_within_it():
    boxes = torch.tensor([[[4.0, 8.0, 11.0, 27.0], [0.0, 0.0, 31.0, 31.0]]])
    paper = drawn(box_prompts(boxes, (32, 32)), 8, 4.0).mask
    wanted = torch.full((8, 8), OUTSIDE)
    wanted[2:7, 1:3] = WITHIN
    assert torch.equal(paper[0, 0], wanted)
    assert torch.equal(paper[0, 1], torch.full((8, 8), WITHIN))


def test_clicks_are_dots_of_their_sign_and_a_given_mask_stays_below_them():
    mask = torch.full((1, 2, 16, 16), 3.0)
    points = torch.tensor([[[[9.5, 25.5], [57.5, 41.5]], [[-1.0, -1.0], [-1.0, -1.0]]]])
    labels = torch.tensor([[[POSITIVE, NEGATIVE], [NO_POINT, ABSENT]]])
    given = Prompts(points, labels, (64, 64), mask, torch.tensor([[True, True]]))
    found = drawn(given, 16, 4.0)
    paper = found.mask[0]
    assert torch.allclose(paper[0, 6, 2], torch.tensor(10.0), atol=0.3)  # the cell of (9.5, 25.5)
    assert torch.allclose(paper[0, 10, 14], torch.tensor(-10.0), atol=0.3)
    assert torch.allclose(paper[0, 0, 15], torch.tensor(3.0), atol=0.1)  # far from both
    assert torch.equal(paper[1], mask[0, 1])
    without = given._replace(mask=None, with_mask=None)
    assert drawn(without, 16, 4.0).with_mask.tolist() == [[True, False]]


def test_drawing_shows_where_the_prompt_is_and_moves_with_it():
    """The place of a drawn click is that of the image: shifted by a cell, the drawing is shifted by a cell."""
    at = torch.tensor([[[[25.5, 33.5]]]])
    label = torch.tensor([[[POSITIVE]]])
    one, other = (drawn(Prompts(p, label, (64, 64)), 16, 4.0).mask[0, 0] for p in (at, at + 4))
    assert torch.allclose(one[:-1, :-1], other[1:, 1:], atol=1e-5)


def test_affinity_is_the_balanced_cross_entropy_over_pairs():
    generator = torch.Generator().manual_seed(0)
    embedding = torch.randn(1, 5, 2, 2, generator=generator)
    identity = torch.tensor([[[1, 1, 2, 2], [1, 1, 2, 2], [1, 1, 3, 2], [1, 1, 3, 3]]])  # the last cell is mixed
    cells = [embedding[0, :, i, j] for i, j in ((0, 0), (0, 1), (1, 0))]
    ids, sums = [1, 2, 1], {True: [], False: []}
    for a, p in zip(cells, ids):
        for b, q in zip(cells, ids):
            logit = 10 * (torch.cosine_similarity(a, b, dim=0) - 0.5)
            sums[p == q].append(torch.nn.functional.softplus(-logit if p == q else logit))
    expected = (torch.stack(sums[True]).mean() + torch.stack(sums[False]).mean()) / 2
    same, other = losses.affinity(embedding, identity)
    assert torch.allclose((same.value() + other.value()) / 2, expected, atol=1e-5)


def test_classical_answers_find_a_bright_square_exactly():
    label = torch.zeros(1, 40, 40, dtype=torch.int64)
    label[:, 10:26, 8:24] = 1
    batch = Batch.of(0.1 + 0.8 * label.float().unsqueeze(1), label=label)
    objects = every_object(label, batch.key)
    answers = classical.classical_answers(batch, objects)
    square = label[0].numpy() == 1
    number = int(np.argmax([square[y, x] for y, x in objects.pixel[0].tolist()]))  # of square and ground
    for kind in ("point", "mask"):
        assert np.array_equal(answers["Otsu"][kind][number], square), kind
    in_box = answers["Otsu"]["box"][number]  # the box's sides are moved by up to a tenth
    assert (in_box & square).sum() > 0.8 * (in_box | square).sum()
    assert (answers["SLIC"]["box"][number] & square).sum() > 200
    inside = answers["the box itself"]["box"][number]
    assert abs(int(inside.sum()) - 256) < 150


@pytest.mark.parametrize("thick", [1, 2, 3])
@pytest.mark.filterwarnings("error")
def test_otsu_finds_thin_bright_lines_in_their_box(thick):
    grey = np.full((20, 40), 0.2)
    grey[9 : 9 + thick, 5:35] = 0.9
    frame = np.zeros(grey.shape, bool)
    frame[9 : 9 + max(thick, 2), 5:35] = True
    assert np.array_equal(classical._otsu_in(grey, frame), frame & (grey > 0.5))


def test_classical_figures_are_means_over_objects():
    class Table:
        """Two samples of a square each."""

        classes = None

        def __len__(self):
            return 2

        def read(self, index):
            from lamella import Sample

            image = np.full((40, 40), 20, np.uint8)
            image[5 : 20 + index, 5:20] = 220
            return Sample(image, (image > 100).astype(np.uint8), None, index, 0, (1.0, 1.0), {}, str(index))

    import lamella

    figures = classical.classical_figures(Table(), lamella.build("modality", "tem"), background=0)
    assert figures["Otsu"] == {"point": 1.0, "box": pytest.approx(1.0, abs=0.15), "mask": 1.0}
    assert 0.5 < figures["the box itself"]["box"] <= 1.0
