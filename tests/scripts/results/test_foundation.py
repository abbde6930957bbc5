"""The table of foundation models beside the published figures."""

import re
from types import SimpleNamespace

from scripts.results import foundation
from tests.conftest import ROOT
from tests.helpers.written_runs import collect

CLIP, DINO = "vit_base_patch16_clip_224.openai", "vit_base_patch14_reg4_dinov2.lvd142m"


def of_foundation(method: str, network: str, adapter: str = "LoRA", /, **changed) -> dict:
    """For `write_run`: scripts/foundation.sh's command for DTD with 3 labels, with other values of some arguments."""
    command = foundation._command(foundation.FoundationKey(method, "DTD", 3, network, adapter))
    script = "v_pet" if "sources" in command else method
    return {"dataset": "DTD", "method": script, "parse_args": lambda _: SimpleNamespace(**command | changed)}


def test_runs_of_foundation_models_stand_beside_the_published_figures(write_run, tmp_path, capsys):
    """Votes are told apart by the number of their sources; seeds of one have sources of their own seeds."""
    write_run("a", 57.5, 60.0, **of_foundation("erm", CLIP))
    write_run("b", 61.0, 62.0, **of_foundation("erm", CLIP, "AdaptFormer", lr=0.001, adapter=8))
    write_run("c", 50.0, 51.0, **of_foundation("erm", CLIP, lora=None))
    write_run("st", 52.0, 53.0, **of_foundation("st", DINO))
    write_run("pet", 52.0, 53.0, **of_foundation("pet", DINO))
    sources = foundation._command(foundation.FoundationKey("v_pet", "DTD", 3, CLIP, "LoRA"))["sources"]
    write_run("v_pet", 65.0, 68.0, **of_foundation("v_pet", CLIP))
    moved = [f"{source}_seed1" for source in sources]
    write_run("v_pet_seed1", 67.0, 68.0, **of_foundation("v_pet", CLIP, seed=1, split_seed=1, sources=moved))
    collect(tmp_path)
    table, notes = capsys.readouterr().out.split("foundation models: ")[1].split("\n\n", 2)[1:]
    assert [re.split(r"  +", line) for line in table.splitlines()[2:]] == [
        ["DTD", "3 per class", CLIP, "–", "erm*", "1", "51.0", "50.0", "–"],
        ["DTD", "3 per class", CLIP, "LoRA", "erm", "1", "60.0", "57.5", "57.9"],
        ["DTD", "3 per class", CLIP, "LoRA", "v_pet", "2", "68.0 ± 0.0", "66.0 ± 1.4", "65.6"],
        ["DTD", "3 per class", CLIP, "AdaptFormer", "erm*", "1", "62.0", "61.0", "61.5 ?"],
        ["DTD", "3 per class", DINO, "LoRA", "st", "1", "53.0", "52.0", "52.3 ?"],
        ["DTD", "3 per class", DINO, "LoRA", "pet", "1", "53.0", "52.0", "66.7"],
    ]
    departed = "--adapter 8 (published: 16), --lr 0.001 (published: 0.0001)"
    assert re.sub(r"\s+", " ", notes).startswith(
        f"* erm on DTD, 3 labels per class ({CLIP}, no adapter): --lora None (published: 4) "
        f"* erm on DTD, 3 labels per class ({CLIP}, AdaptFormer): {departed} ? may be misread: see docs/foundation.md"
    )


def test_a_vote_of_other_sources_is_marked(write_run, tmp_path, capsys):
    """Or of as many as the table has nowhere, which is set beside V-PET. Where the logs are makes no difference."""
    for number in (2, 3):
        sources = [f"logs/foundation/clip_lora/fixmatch/{i}" for i in range(number)]
        write_run(f"{number}", 65.0, 68.0, **of_foundation("v_pet", CLIP, sources=sources))
    sources = foundation._command(foundation.FoundationKey("v_pet", "DTD", 3, CLIP, "LoRA"))["sources"]
    elsewhere = ["/data/runs" + source.removeprefix("logs/foundation") for source in sources]
    write_run("elsewhere", 66.0, 67.0, **of_foundation("v_pet", CLIP, sources=elsewhere))
    collect(tmp_path)
    shown = capsys.readouterr().out
    rows = re.findall(r"LoRA +(\w+\*?) .* ([\d.]+)$", shown, re.MULTILINE)
    assert rows == [("pet*", "63.4"), ("v_pet*", "65.6"), ("v_pet", "65.6")]
    assert "--sources ['clip_lora/fixmatch/0'," in re.sub(r"\s+", " ", shown)


def test_other_numbers_of_labels_are_not_in_the_table_of_foundation_models(write_run, tmp_path, capsys):
    write_run("run", 65.0, 68.0, **of_foundation("erm", CLIP, num_samples_per_class=4))
    collect(tmp_path)
    assert "foundation models" not in capsys.readouterr().out


def test_the_page_on_foundation_models_has_the_published_figures():
    """A table for each dataset: a row per method, a column for each network, adapter and number of labels."""
    page, figures = (ROOT / "docs" / "foundation.md").read_text(), foundation.figures()
    assert len(figures) == 2 * 2 * 2 * 2 * 7
    names = {"CLIP": CLIP, "DINOv2": DINO}
    for dataset in ("DTD", "SUN397"):
        header, _, *rows = page.split(f"**{dataset}**\n\n| | ")[1].split("\n\n")[0].splitlines()
        columns = [re.fullmatch(r"(\w+) (\w+), (\d)", name).groups() for name in header.strip(" |").split(" | ")]
        found = [row.strip("| ").split(" | ") for row in rows]
        assert found == [
            [
                method,
                *(f"{figures[method, dataset, int(n), names[x], adapter].accuracy:.1f}" for x, adapter, n in columns),
            ]
            for method in dict.fromkeys(key.method for key in figures)
        ]
        assert len({*columns}) == 8
