"""Photographs are turned in training, test and prediction where --exif-orientation asks for it, and nowhere else."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors import safe_open

import erm
import export
import predict
import v_pet
from common import datasets
from common.datasets.images import ImageSet
from common.loading.loaders import TrainLoader
from tests.datasets.test_images import photo
from tests.programs.test_export import printed


@pytest.fixture
def root(tmp_path):
    """Photographs as a telephone stores them; `test/cat/b.png` shows the same as `a.png`, and is stored upright."""
    for name, orientation in (("train/cat/1", 6), ("train/dog/1", 1), ("test/cat/a", 6), ("test/cat/b", 1)):
        path = tmp_path / "photos" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        photo(path, orientation)
    return tmp_path / "photos"


@pytest.mark.parametrize(("flag", "reported"), [
    (False, "they stay as they are stored, --exif-orientation turns them"), (True, "they are turned")
])  # fmt: skip
def test_what_is_done_is_reported_in_one_line(root, log, flag, reported):
    log.set_level("INFO", "common")
    data = datasets.load("ImageFolder", root, exif_orientation=flag)
    assert f"2 of 4 images that were looked at are to be turned by their EXIF: {reported}" in log.messages
    assert data.train.load(0).size == ((32, 24) if flag else (24, 32))
    assert data.test.load(0).size == ((32, 24) if flag else (24, 32))


def test_a_sample_is_looked_at(root, log, monkeypatch):
    log.set_level("INFO", "common")
    monkeypatch.setattr(datasets, "LOOKED_AT", 2)
    datasets.load("ImageFolder", root)
    assert "2 of 2 images that were looked at" in log.text  # the first and the third


def run(root: Path, log: Path, *flags: str) -> list[list[str]]:
    """Train, and predict the test images: class and probabilities of each."""
    argv = (
        f"{root} -d ImageFolder --num-samples-per-class 1 -a wrn_10_1_half --scratch --image-size 16 -j 0 "
        f"--bottleneck-dim 8 --epochs 1 -i 1 -b 2 --device cpu --log {log}"
    ).split()
    erm.main(erm.parse_args([*argv, *flags]))
    out = log.with_suffix(".csv")
    predict.main(
        predict.parse_args([str(log), f"{root}/test", "--all", "--device", "cpu", "-j", "0", "--out", str(out)])
    )
    with open(out, newline="") as file:
        return [row[1:] for row in csv.reader(file)][1:]


def test_training_and_prediction_see_the_same(root, tmp_path, monkeypatch):
    seen = []
    make = TrainLoader.__init__

    def noting(loader, images: ImageSet, *args, **options):
        seen.append(np.asarray(images.load(0)).shape[:2])
        make(loader, images, *args, **options)

    monkeypatch.setattr(TrainLoader, "__init__", noting)
    first, second = run(root, tmp_path / "turned", "--exif-orientation")
    assert first == second
    first, second = run(root, tmp_path / "stored")
    assert first != second
    assert seen == [(24, 32), (32, 24)]


def test_a_source_of_v_pet_votes_on_photographs_as_it_was_trained_on_them(root, tmp_path, monkeypatch):
    run(root, tmp_path / "turned", "--exif-orientation")
    run(root, tmp_path / "stored")
    seen, make = [], v_pet.TestLoader

    def noting(images: ImageSet, *args, **options):
        seen.append(np.asarray(images.load(0)).shape[:2])
        return make(images, *args, **options)

    monkeypatch.setattr(v_pet, "TestLoader", noting)
    args = v_pet.parse_args([str(root), "-d", "ImageFolder", "--sources", "none", "--passes", "1"])
    options = {"workers": 0, "device": torch.device("cpu")}
    for own in (False, True):
        data = datasets.load("ImageFolder", root, exif_orientation=own)
        votes = v_pet.Votes(len(data.train), 2, 2, "mean")
        folders = [tmp_path / "turned", tmp_path / "stored"]
        v_pet.make_votes(votes, data.train, data.spec, folders, args, options)
    assert seen == [(24, 32), (32, 24)] * 2


def test_an_export_says_whether_photographs_were_turned(root, tmp_path, capsys):
    for name, flags in (("turned", ["--exif-orientation"]), ("stored", [])):
        run(root, tmp_path / name, "-a", "test_resnet", "--no-bottleneck", "--bottleneck-dim", "1024", *flags)
        capsys.readouterr()
        export.main(export.parse_args([str(tmp_path / name), str(tmp_path / f"{name}.safetensors")]))
        export.main(export.parse_args([str(tmp_path / name), str(tmp_path / f"{name}_model"), "--timm"]))
        assert capsys.readouterr().out.count("PIL.ImageOps.exif_transpose") == 2 * len(flags)
        for file in (f"{name}.safetensors", f"{name}_model/model.safetensors"):
            with safe_open(tmp_path / file, "pt") as content:
                assert json.loads(content.metadata()["exif_orientation"]) is bool(flags)
        config = json.loads((tmp_path / f"{name}_model" / "config.json").read_text())
        assert config["exif_orientation"] is bool(flags)
        timm.create_model(f"local-dir:{tmp_path / f'{name}_model'}", pretrained=True)


def test_the_lines_of_the_docs_turn_as_the_run_did(root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    photo(Path("photo.png"), 6)
    for flags, size in ((["--exif-orientation"], (32, 24)), ([], (24, 32))):
        run(root, tmp_path / str(size[0]), "-a", "test_resnet", *flags)
        export.main(export.parse_args([str(tmp_path / str(size[0])), "photos.safetensors"]))
        known: dict = {}
        exec(printed(), known)  # noqa: S102 (our own)
        assert known["image"].size == size
