"""The page on which predictions are corrected: names are text, it needs nothing but itself, a person can work on it."""

import base64
import csv
import io
import json
import os
import re
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import erm
import predict
from common.datasets import inventory
from common.datasets.images import ORIENTATION, ImageSet
from common.errors import UserError
from common.records import correction_page, known_labels
from tests.helpers import browser

CLASSES = ["<img src=x onerror=document.title=1>", 'Größe "L", rot']
FILES = [
    *('it\'s "one", two.png', "äö &amp; ü.png", "<b onclick=x>.png", "deep/a</script><script>b.png", " first.png"),
    *("5.png", "6.png", "7.png"),
]
LABELED = ["l0.png", "l 1.png", 'l"2".png', "l,3.png"]
needs_browser = pytest.mark.skipif(browser.find() is None, reason="no Chromium or Chrome is installed here")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Images with names that are hard to write, and a run trained on four of them. To be read only."""
    world = tmp_path_factory.mktemp("page")
    names = [*FILES, *LABELED, *(f"test/{name}/{i}.png" for name in CLASSES for i in range(2))]
    for i, name in enumerate(names):
        (world / "root" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((16, 16), 10 * i + 20).convert("RGB").save(world / "root" / name)
    with open(world / "labels.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["path", "class"], *zip(LABELED, CLASSES * 2, strict=True)])
    train(world, world / "run", world / "labels.csv")
    return world


def train(world: Path, log: Path, table: Path, *flags: str) -> dict:
    argv = (
        "-d ImageFolder -a wrn_10_1_half --scratch --train-resizing native --val-resizing native --image-size 16 -j 0 "
        "--bottleneck-dim 8 --epochs 1 -i 2 -b 4 --device cpu"
    ).split()
    argv = [str(world / "root"), *argv, "--log", str(log), "--labeled-list", str(table), *flags]
    return erm.main(erm.parse_args(argv))


def run_predict(world: Path, *flags: str | Path, run: str = "run") -> None:
    words = [str(world / run), str(world / "root"), "--device", "cpu", "-j", "0", *map(str, flags)]
    predict.main(predict.parse_args(words))


def data_of(page: Path) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text())[1])


# Without a browser


def test_the_page_holds_what_is_not_labeled_and_not_for_testing(world, tmp_path, capsys):
    run_predict(world, "--page", tmp_path / "page.html", "--out", tmp_path / "all.csv")
    data = data_of(tmp_path / "page.html")
    listed = ["./ first.png" if name == " first.png" else name for name in FILES]
    assert sorted(item["path"] for item in data["items"]) == sorted(listed)
    assert (data["classes"], data["title"]) == (CLASSES, "run, erm, epoch 1")
    assert sorted(map(tuple, data["labels"])) == sorted(zip(LABELED, CLASSES * 2, strict=True))
    rows = {os.path.relpath(row["path"], world / "root"): row for row in csv.DictReader(open(tmp_path / "all.csv"))}  # noqa: SIM115
    assert len(rows) == len(FILES) + 4 + 4
    labels = {name: row["given"] for name, row in rows.items() if row["given"]}
    assert labels == dict(zip(map(os.path.normpath, LABELED), CLASSES * 2, strict=True))
    for item in data["items"]:
        row = rows[os.path.normpath(item["path"])]
        assert (CLASSES[item["label"]], item["confidence"]) == (row["class"], round(float(row["confidence"]), 4))
        assert item["margin"] == pytest.approx(2 * item["confidence"] - 1, abs=2e-4)  # there are two classes
        image = Image.open(io.BytesIO(base64.b64decode(item["image"])))
        assert (image.format, image.size) == ("JPEG", (16, 16))
    reported = capsys.readouterr().err
    assert re.search(r"the network is '.*best.pth', of epoch 1", reported)
    assert re.search(r"all.csv': 16 images: \d+ (<img|Größe)", reported)
    assert "8 of them have labels already, or are for testing" in reported
    assert "page.html': 8 images (" in reported
    assert "holds them and the 4 labels from before, and is a list for --labeled-list" in reported


def test_labels_from_before_that_no_list_can_hold_are_left_out_and_counted(world, tmp_path, monkeypatch, capsys):
    """In the saved list they would be lines that name no image, for which the list is refused."""
    known, load = {"caf\udce9.png": CLASSES[0], "line\rend.png": CLASSES[1]}, known_labels.load
    monkeypatch.setattr(known_labels, "load", lambda *how: load(*how)._replace(labels=load(*how).labels | known))
    run_predict(world, "--page", tmp_path / "page.html")
    assert sorted(path for path, _ in data_of(tmp_path / "page.html")["labels"]) == sorted(LABELED)
    reported = capsys.readouterr().err
    assert "2 labels from before will be missing in the saved list: no list can hold the names" in reported
    assert "holds them and the 4 labels from before" in reported


def test_the_table_of_the_least_certain(world, tmp_path, capsys):
    run_predict(world, "--uncertain", "5", "--out", tmp_path / "five.csv", "--top", "2")
    rows = list(csv.DictReader(open(tmp_path / "five.csv")))  # noqa: SIM115
    assert list(rows[0]) == ["path", "class", "confidence", "class_2", "confidence_2", "margin"]
    assert {os.path.relpath(row["path"], world / "root") for row in rows} < set(FILES)
    for row in rows:
        expected = float(row["confidence"]) - float(row["confidence_2"])
        assert float(row["margin"]) == pytest.approx(expected, abs=1e-5)
    of_first = [float(row["margin"]) for row in rows if row["class"] == rows[0]["class"]]
    assert of_first == sorted(of_first)
    reported = capsys.readouterr().err
    assert "to label next: 5 of the others" in reported
    assert "WARNING: the table lacks the 4 labels that the run had: add their lines before you train" in reported
    run_predict(world, "--uncertain", "3", "--page", tmp_path / "three.html")
    assert "WARNING" not in capsys.readouterr().err
    names = {item["path"] for item in data_of(tmp_path / "three.html")["items"]}
    assert {os.path.normpath(name) for name in names} == {
        os.path.relpath(row["path"], world / "root") for row in rows[:3]
    }


def test_predictions_that_nobody_checked_are_asked_about_again(world, tmp_path):
    """They are no labels from before: on the page they would lose their confidence, and look like a person's."""
    rows = [["path", "class", "confidence"], *([name, CLASSES[i % 2], ""] for i, name in enumerate(LABELED))]
    rows += [["5.png", CLASSES[0], "0.9"], ["6.png", CLASSES[1], "0.8"]]
    with open(tmp_path / "list.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    train(world, tmp_path / "run", tmp_path / "list.csv")
    run_predict(world, "--page", tmp_path / "page.html", run=tmp_path / "run")
    data = data_of(tmp_path / "page.html")
    assert sorted(path for path, _ in data["labels"]) == sorted(LABELED)
    assert {"5.png", "6.png"} <= {item["path"] for item in data["items"]}


def test_from_another_folder_a_warning_says_that_labeled_images_are_not_known(world, tmp_path, monkeypatch, capsys):
    shutil.copytree(world / "run", tmp_path / "run")
    file = tmp_path / "run" / "args.json"
    content = json.loads(file.read_text())
    content["args"]["root"] = "root"  # as a call in `world` records it
    file.write_text(json.dumps(content))
    monkeypatch.chdir(world)
    run_predict(world, "--page", tmp_path / "page.html", run=tmp_path / "run")
    assert "WARNING" not in capsys.readouterr().err
    monkeypatch.chdir(tmp_path)
    run_predict(world, "--page", tmp_path / "page.html", run=tmp_path / "run")
    warned = f"WARNING: none of the run's labeled images is below '{tmp_path / 'root'}', so they are not recognised"
    assert warned in capsys.readouterr().err
    run_predict(world, "--page", tmp_path / "moved.html", "--root", world / "root", run=tmp_path / "run")
    assert "WARNING" not in capsys.readouterr().err
    assert len(data_of(tmp_path / "moved.html")["items"]) == len(FILES)


def test_a_root_that_is_none_is_one_line(world, tmp_path):
    with pytest.raises(UserError, match=r"^--root '.*nowhere': there is no such folder: leave it out"):
        run_predict(world, "--root", tmp_path / "nowhere")
    shutil.copytree(world / "run", tmp_path / "run")
    (tmp_path / "run" / "images.csv").unlink()
    with pytest.raises(UserError, match=r"^--root '.*root': this run has no labels of images"):
        run_predict(world, "--root", world / "root", run=tmp_path / "run")


def test_a_label_is_not_that_of_another_file_with_the_same_name(world, tmp_path, capsys):
    """As where the folder was filled with the next photographs of a camera that counts from 1 again."""
    shutil.copytree(world / "root", tmp_path / "root")
    Image.effect_noise((16, 16), 99).convert("RGB").save(tmp_path / "root" / "l0.png")
    flags = ("--root", tmp_path / "root", "--device", "cpu", "-j", "0")
    files = ("--page", tmp_path / "page.html", "--out", tmp_path / "all.csv")
    predict.main(predict.parse_args([str(word) for word in (world / "run", tmp_path / "root", *flags, *files)]))
    data = data_of(tmp_path / "page.html")
    assert "l0.png" in {item["path"] for item in data["items"]}
    assert sorted(path for path, _ in data["labels"]) == sorted(LABELED[1:])
    given = {Path(row["path"]).name: row["given"] for row in csv.DictReader(open(tmp_path / "all.csv"))}  # noqa: SIM115
    assert (given["l0.png"], given["l 1.png"]) == ("", CLASSES[1])
    reported = capsys.readouterr().err
    assert "WARNING: 1 of the run's labeled images are other files now ('l0.png' for one)" in reported
    assert "below" not in reported


def test_images_that_the_list_will_not_find_are_named(world, tmp_path, capsys):
    shutil.copy(world / "root" / "5.png", tmp_path / "elsewhere.png")
    words = [world / "run", tmp_path / "elsewhere.png", "--page", tmp_path / "page.html", "--device", "cpu", "-j", "0"]
    predict.main(predict.parse_args([str(word) for word in words]))
    warned = f"WARNING: 1 images of the page are not below '{world / 'root'}': put them there before you train"
    assert warned in capsys.readouterr().err


def test_links_to_labeled_images_are_known_and_other_runs_know_none(world, tmp_path):
    known = known_labels.load(world / "run")
    (tmp_path / "link").symlink_to(world / "root")
    assert known.below(str(tmp_path / "link" / "l0.png")) == "l0.png"
    assert known.below(str(tmp_path / "elsewhere.png")) is None
    assert known.is_for_testing("test/x/0.png")
    assert not known.is_for_testing("tests.png")


def test_no_name_ends_the_data_or_begins_a_tag():
    data = {"title": "</script><script>alert(1)</script>", "classes": ["<!--", "{{DATA}}", "\u2028"], "items": []}
    page = correction_page.page(data | {"labels": [], "id": "{{POLICY}}"})
    template = correction_page.TEMPLATE.read_text()
    assert page.count("<") == template.count("<")
    assert page.count("<script") == page.count("</script>") == 2
    block = re.search(r'id="data">(.*?)</script>', page)[1]
    assert json.loads(block) == data | {"labels": [], "id": "{{POLICY}}"}
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-" in page
    assert not re.search(r"https?://|innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", page)


def test_what_is_no_json_is_not_written():
    with pytest.raises(ValueError, match="not JSON compliant"):
        correction_page.page({"items": [{"margin": float("nan")}]})


def test_names_that_no_list_can_hold(world, tmp_path):
    assert correction_page.can_be_listed("ä\n/'\".png")
    assert not correction_page.can_be_listed("a\r.png")
    assert not correction_page.can_be_listed(os.fsdecode(b"\xff.png"))
    assert correction_page.as_listed("a b.png") == "a b.png"


def test_thumbnails_are_small_and_upright(tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    Image.linear_gradient("L").resize((2000, 1000)).convert("RGB").save(tmp_path / "a.jpg", exif=exif)
    thumbnail = ImageSet([str(tmp_path / "a.jpg")], np.array([-1])).thumbnail(0, 192)
    assert thumbnail.size == (96, 192)
    left, right = (thumbnail.getpixel((x, 96))[0] for x in (5, 90))
    assert right < 20  # its top was dark, and is on the right now
    assert left > 235


# In a browser


@needs_browser
def test_a_person_corrects_saves_and_trains_again(world, tmp_path):
    run_predict(world, "--page", tmp_path / "page.html")
    items = data_of(tmp_path / "page.html")["items"]
    order = sorted(range(8), key=lambda i: (items[i]["margin"], i))
    with browser.browsing(tmp_path) as page:
        page.open(tmp_path / "page.html")
        names = page.value("[...document.querySelectorAll('.card .name')].map(each => each.textContent)")
        assert names == [CLASSES[items[i]["label"]] for i in order]
        page.press("1", "2", " ", "Enter")  # of the first four, in this order
        assert count(page) == "4 of 8 done"
        page.press("z", control=True)
        page.press("Backspace", "ArrowLeft", "ArrowLeft", "2", "ArrowRight")  # the first one is corrected
        assert count(page) == "2 of 8 done"
        page.click(".card:nth-child(8) .accept")
        page.click(".card:nth-child(5)")
        page.click("#classes button:nth-child(1)")
        assert count(page) == "4 of 8 done"
        page.click("[data-state=todo]")
        assert page.value("[...document.querySelectorAll('.card')].map(each => each.hidden)") == [
            *(True, True, False, False, True, False, False, True)
        ]
        page.press("Home", "Delete", " ")
        page.click("#undo")
        page.click("[data-state=all]")
        page.click(".card:nth-child(2)")
        page.press("Delete")
        assert count(page) == "3 of 8 done"
        page.click("#save")
        saved = page.saved("labels.csv")
        assert page.value("document.getElementById('message').textContent") == "Saved 3 labels and the 4 from before"
        page.open(tmp_path / "page.html")  # as it was left
        assert count(page) == "3 of 8 done"
        assert page.value("document.querySelectorAll('script, b, main img').length") == 2 + 8
        assert page.value("document.title") == "Which class is it?"
        assert page.errors == []
        assert {address.partition(":")[0] for address in page.requests} == {"file", "data"}
    rows = list(csv.reader(io.StringIO(saved), strict=True))
    decided = {order[0]: 1, order[4]: 0, order[7]: items[order[7]]["label"]}
    corrected = [[items[i]["path"], CLASSES[decided[i]]] for i in sorted(decided)]
    assert rows[0] == ["path", "class"]
    assert sorted(rows[1:5]) == sorted(map(list, zip(LABELED, CLASSES * 2, strict=True)))
    assert rows[5:] == corrected
    result = train(world, tmp_path / "next", tmp_path / "labels.csv", "--init-from", str(world / "run"))
    assert result["pretraining"] == "run run"
    kept = json.loads((tmp_path / "next" / "labeled.json").read_text())["names"]
    assert sorted(kept) == sorted([*LABELED, *(os.path.normpath(path) for path, _ in corrected)])


def count(page: browser.Browser) -> str:
    return page.value("document.getElementById('count').textContent")


def a_page(file: Path, number: int, classes: list[str]) -> None:
    stream = io.BytesIO()
    Image.effect_noise((192, 144), 60).convert("RGB").save(stream, "JPEG", quality=80)
    image = base64.b64encode(stream.getvalue()).decode()
    items = [
        {"path": f"{i}.png", "file": f"{i}.png", "label": i % len(classes), "confidence": 0.5 + i / number / 2,
         "margin": i / number, "image": image}
        for i in range(number)
    ]  # fmt: skip
    file.write_text(correction_page.page({"title": "", "classes": classes, "items": items, "labels": [], "id": "x"}))


@needs_browser
def test_classes_without_a_key_are_searched_for_and_new_ones_added(tmp_path):
    a_page(tmp_path / "page.html", 5, [*"9a", *(f"class {i}" for i in range(40))])
    with browser.browsing(tmp_path) as page:
        page.open(tmp_path / "page.html")
        keys = page.value("[...document.querySelectorAll('#classes kbd')].map(each => each.textContent)")
        assert keys == [*"9a", *"12345678", "0", *"bcdefghijklmnopqrstuvwxyz"]
        page.press(
            "a", "/", *"ss 39", "Enter", "9", "/", *'<i>"new"', "Enter", "ArrowUp", "/", *"zz", "Escape", "ArrowDown"
        )
        page.press("s", control=True)
        rows = list(csv.reader(io.StringIO(page.saved("labels.csv"))))
        assert rows[1:] == [["0.png", "a"], ["1.png", "class 39"], ["2.png", "9"], ["3.png", '<i>"new"']]
        assert page.errors == []


@needs_browser
def test_a_mistyped_class_is_gone_when_it_is_corrected(tmp_path):
    a_page(tmp_path / "page.html", 5, ["cat", "dog"])
    offered = "[...document.querySelectorAll('#classes button:not([hidden])')].map(each => each.title)"
    with browser.browsing(tmp_path) as page:
        page.open(tmp_path / "page.html")
        page.press("/", *"hrose", "Enter", "ArrowLeft")
        assert page.value(offered) == ["cat", "dog", "hrose"]
        page.press("/", *"horse", "Enter", "3")  # no key of the class that is gone
        assert page.value(offered) == ["cat", "dog", "horse"]
        assert count(page) == "1 of 5 done"
        page.press("Backspace")  # it is back with what it was
        assert page.value(offered) == ["cat", "dog", "hrose"]
        page.press("Backspace", "/", *"hrose", "Enter", "3")  # typed again, it is the same class
        page.press("s", control=True)
        assert page.saved("labels.csv").splitlines()[1:] == ["0.png,hrose", "1.png,hrose"]
        assert page.errors == []


@needs_browser
def test_a_class_whose_name_is_a_part_of_anothers(tmp_path):
    a_page(tmp_path / "page.html", 5, ["caterpillar", "dog"])
    with browser.browsing(tmp_path) as page:
        page.open(tmp_path / "page.html")
        page.press("/", *"cat")
        message = page.value("document.getElementById('message').textContent")
        assert message == "Enter takes 'caterpillar', Shift Enter adds 'cat'"
        page.press("Enter", "/", *"cat")
        page.press("Enter", shift=True)
        page.press("s", control=True)
        assert page.saved("labels.csv").splitlines()[1:] == ["0.png,caterpillar", "1.png,cat"]


@needs_browser
def test_an_added_class_with_a_wrong_capital_is_corrected(tmp_path):
    """The run's own classes are found whatever the capitals: a list refuses two spellings of one class."""
    a_page(tmp_path / "page.html", 5, ["cat", "dog"])
    with browser.browsing(tmp_path) as page:
        page.open(tmp_path / "page.html")
        page.press("/", *"Horse", "Enter", "ArrowLeft", "/", *"horse")
        message = page.value("document.getElementById('message').textContent")
        assert message == "Enter takes 'Horse', Shift Enter adds 'horse'"
        page.press("Enter", shift=True)
        page.press("/", *"HORSE", "Enter", "/", *"Cat")
        page.press("Enter", shift=True)
        page.press("s", control=True)
        assert page.saved("labels.csv").splitlines()[1:] == ["0.png,horse", "1.png,horse", "2.png,cat"]


@needs_browser
def test_keys_that_no_person_meant_decide_nothing(tmp_path):
    """A key that is held, and the Enter that ends the composition of a word."""
    a_page(tmp_path / "page.html", 5, ["cat", "dog"])
    event = "dispatchEvent(new KeyboardEvent('keydown', {{ key: '{}', {}: true, bubbles: true }}))"
    with browser.browsing(tmp_path) as page:
        page.open(tmp_path / "page.html")
        page.value(event.format("1", "repeat"))
        page.press("/", *"ca")
        page.value("document.getElementById('search')." + event.format("Enter", "isComposing"))
        assert count(page) == "0 of 5 done"
        page.press("Enter")
        assert count(page) == "1 of 5 done"


@needs_browser
def test_undo_shows_what_a_filter_hides(tmp_path):
    a_page(tmp_path / "page.html", 4, ["cat", "dog"])
    with browser.browsing(tmp_path) as page:
        page.open(tmp_path / "page.html")
        page.press("2")  # the first image was a cat
        page.value("(() => { const all = document.getElementById('filter'); all.value = 1;"
                   "all.dispatchEvent(new Event('change')); })()")  # fmt: skip
        page.click("#undo")
        assert page.value("document.querySelector('.card.current').hidden") is False
        page.press(" ")
        assert count(page) == "1 of 4 done"


@needs_browser
def test_500_images_stay_quick(tmp_path):
    a_page(tmp_path / "page.html", 500, [f"class {i}" for i in range(12)])
    with browser.browsing(tmp_path) as page:
        start = time.perf_counter()
        page.open(tmp_path / "page.html")
        loading = time.perf_counter() - start
        keys = page.value(
            "(() => { const start = performance.now(); for (let i = 0; i < 100; i++) {"
            "dispatchEvent(new KeyboardEvent('keydown', { key: i % 2 ? ' ' : '3' })); document.body.offsetHeight; }"
            "return (performance.now() - start) / 100; })()"
        )
        assert count(page) == "100 of 500 done"
    print(f"500 images: loaded in {loading:.2f} s, {keys:.1f} ms a key")
    assert loading < 20  # 0.3 s on an idle core
    assert keys < 100  # milliseconds


def test_held_out_labels_are_known_too_and_predictions_are_not(tmp_path):
    for name in "abc":
        (tmp_path / name).write_text(name)
    images, run = ImageSet([str(tmp_path / name) for name in "abc"], [0, 1, 0]), tmp_path / "run"
    run.mkdir()
    (run / "args.json").write_text(json.dumps({"args": {"data": "ImageFolder", "root": str(tmp_path)}}))
    (run / "images.csv").write_bytes(inventory.to_csv(inventory.read({"train": images}, ["x", "y"], tmp_path, {})))
    names = {"names": ["a"], "held_out_names": ["b", "c"], "predicted_names": ["c"]}
    (run / "labeled.json").write_text(json.dumps(names))
    assert known_labels.load(run).labels == {"a": "x", "b": "y"}
