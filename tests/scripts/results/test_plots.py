"""What the pictures show, read back from the figures."""

import json
import warnings

import pytest

import erm
from scripts.results import dot_plot, plots, published
from scripts.results.cells import cells, footnotes
from scripts.results.runs import read_runs
from tests.helpers.written_runs import DIGITS, SIX_SETTINGS, change
from tests.methods.test_methods import METHODS


def drawn(axes) -> dict[str, dict]:
    """The curves of a panel, in the order of its legend: name -> value in the legend, color, has it a band."""
    lines = {line.get_label(): line.get_color() for line in axes.lines}
    bands = {tuple(band.get_facecolor()[0, :3]) for band in axes.collections}
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert sorted(names) == sorted(lines)
    return {
        name.rpartition(" ")[0]: {
            "value": float(name.rpartition(" ")[2]),
            "color": lines[name],
            "band": plots.mpl.colors.to_rgb(lines[name]) in bands,
        }
        for name in names
    }


def figure_of(tmp_path, metric: str = "accuracy"):
    table, _ = cells(read_runs([tmp_path]))
    return plots.over_epochs_figure(table, plots.METRICS[metric], "title", footnotes(table))


def test_the_legend_leaves_the_axes_their_room(write_run, tmp_path):
    """With six settings of four methods, the axes are as large as with one run, and nothing is cut off."""
    digits = {"dataset": "Digits", "pretraining": "scratch"}
    for method in ("fixmatch", "a", "b", "c"):
        for i, flags in enumerate(SIX_SETTINGS):
            write_run(f"{method}{i}", 60 + i, 70 + i, *flags, method=method, **digits)
    table, _ = cells(read_runs([tmp_path]))
    numbers = footnotes(table)
    one = {key: several[:1] for key, several in list(table.items())[:1]}
    sizes = []
    for shown in (one, table):
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # matplotlib's, where the layout collapses
            figure = plots.over_epochs_figure(shown, plots.METRICS["accuracy"], "title", numbers)
            figure.draw_without_rendering()
        (axes,) = figure.axes
        legend = axes.get_legend()
        for artist in (legend, *figure.texts):  # and the footnotes
            box = artist.get_window_extent()
            assert figure.bbox.x0 <= box.x0 <= box.x1 <= figure.bbox.x1
            assert figure.bbox.y0 <= box.y0 <= box.y1 <= figure.bbox.y1
        assert not legend.get_window_extent().overlaps(axes.get_window_extent())
        sizes.append(axes.get_window_extent())
        labels = [text.get_text() for text in legend.get_texts()]
        plots.plt.close(figure)
    assert len(set(labels)) == 24
    assert figure.texts[0].get_text().startswith("[1] ")
    assert sizes[1].width >= 0.95 * sizes[0].width
    assert sizes[1].height >= 0.95 * sizes[0].height


def test_each_number_of_labels_has_a_panel_and_each_method_one_color(write_run, tmp_path):
    """The oracle is in all of them, and the fewest labels come first."""
    for i, labels in enumerate(("40", "all", "4")):  # as the folders come
        for method, top1 in (("fixmatch", 60), ("erm", 50)):
            if (labels, method) != ("4", "fixmatch"):
                write_run(f"{i}_{method}", top1, top1, "--num-samples-per-class", labels, method=method, **DIGITS)
    write_run("oracle", 90, 90, "--oracle", method="erm", parse_args=erm.parse_args, **DIGITS)
    figure = figure_of(tmp_path)
    assert [axes.get_title() for axes in figure.axes] == [
        f"title; labels: {n}" for n in ("4 per class", "40 per class", "all")
    ]
    panels = [{name: each["color"] for name, each in drawn(axes).items()} for axes in figure.axes]
    assert [list(panel) for panel in panels] == [["oracle", "erm"], *2 * [["oracle", "fixmatch", "erm"]]]
    assert panels[1] == panels[2] == panels[0] | {"fixmatch": panels[1]["fixmatch"]}
    assert panels[1] == {name: plots.color(name) for name in panels[1]}
    plots.plt.close(figure)


def test_runs_with_all_labels_of_a_list_are_the_last_panel(write_run, tmp_path):
    """These say how many labels they are."""
    for name, labels in (("listed", "all"), ("few", "4")):
        folder = write_run(name, 60, 60, "--num-samples-per-class", labels, **DIGITS)
        (folder / "labeled.json").write_text('{"indices": [3, 4, 5]}')
    figure = figure_of(tmp_path)
    assert [axes.get_title() for axes in figure.axes] == ["title; labels: 4 per class", "title; labels: all (3)"]
    plots.plt.close(figure)


def test_what_no_run_has_measured_has_no_panel(write_run, tmp_path):
    """As after a few steps, none of whose pseudo-labels was confident."""
    write_run("run", 60, 60, **DIGITS)
    rows = tmp_path / "run" / "metrics.jsonl"
    rows.write_text(rows.read_text().replace('"pseudo_label_accuracy": 90.0', '"pseudo_label_accuracy": null'))
    figure = figure_of(tmp_path, "pseudo_labels")
    assert [axes.get_ylabel() for axes in figure.axes] == ["images with a pseudo-label, %"]
    plots.plt.close(figure)


def test_every_method_has_a_color_of_its_own():
    """Also grey ones are told from it, and settings of one method share it."""
    assert {*METHODS, "oracle"} <= plots.COLORS.keys()
    colors = [*map(plots.mpl.colors.to_hex, [*plots.COLORS.values(), *plots.SPARE, plots.GREY["color"]])]
    assert len({*colors}) == len(colors)
    assert plots.color("an_idea") == plots.color("an_idea") in plots.SPARE


def test_eight_curves_have_colors_and_bands_the_rest_are_grey(write_run, tmp_path):
    """The best ones, and ERM though it is the last. The legend is sorted by the last value and has it."""
    for i in range(10):
        for seed in (0, 1):
            write_run(f"{i}{seed}", 60 + i + seed, 80, "--seed", str(seed), method=f"idea_{i}", **DIGITS)
    write_run("erm", 50, 80, method="erm", **DIGITS)
    figure = figure_of(tmp_path)
    (axes,) = figure.axes
    found = drawn(axes)
    assert {name: each["value"] for name, each in found.items()} == {
        f"idea_{i}": 60.5 + i for i in range(9, -1, -1)
    } | {"erm": 50.0}
    assert [*found] == [*(f"idea_{i}" for i in range(9, -1, -1)), "erm"]
    bright = {name for name, each in found.items() if each["color"] != plots.GREY["color"]}
    assert bright == {"erm", *(f"idea_{i}" for i in range(3, 10))}
    assert {name for name, each in found.items() if each["band"]} == bright - {"erm"}  # it has one seed
    assert "mean over the seeds, band: lowest to highest" in axes.get_xlabel()
    (band,) = [each for each in axes.collections if each.get_zorder()][:1]
    assert {70.0, 69.0} <= {*band.get_paths()[0].vertices[:, 1]}  # the best method's last epoch
    plots.plt.close(figure)


def test_a_curve_is_grey_in_all_plots_or_in_none(write_run, tmp_path):
    """Also where the best methods have no pseudo-labels."""
    for i in range(10):
        rows = write_run(str(i), 60 + i, 80, method=f"idea_{i}", **DIGITS) / "metrics.jsonl"
        if i > 6:
            rows.write_text(rows.read_text().replace("pseudo_label_", "other_"))
    grey = []
    for kind in ("accuracy", "pseudo_labels"):
        figure = figure_of(tmp_path, kind)
        found = drawn(figure.axes[0])
        grey.append({name for name, each in found.items() if each["color"] == plots.GREY["color"]})
        plots.plt.close(figure)
    assert grey == [{"idea_0", "idea_1"}] * 2


def test_the_settings_of_a_method_share_its_color(write_run, tmp_path):
    for i, flags in enumerate(SIX_SETTINGS):
        write_run(str(i), 60 + i, 70, *flags, **DIGITS)
    figure = figure_of(tmp_path)
    lines = figure.axes[0].lines
    assert {line.get_color() for line in lines} == {plots.color("fixmatch")}
    assert len({(line.get_linestyle(), line.get_marker()) for line in lines}) == 6
    plots.plt.close(figure)


@pytest.mark.parametrize("epochs", [1, 2, 12])
def test_the_axes_are_where_the_data_are(write_run, tmp_path, epochs):
    """No tick between two epochs; a bad beginning does not press the rest together."""
    rows = [{"epoch": i + 1, "top1": 10.0 if i == 0 < epochs - 1 else 90.0 + i} for i in range(epochs)]
    file = write_run("run", 60, 70, **DIGITS) / "metrics.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    figure = figure_of(tmp_path)
    figure.draw_without_rendering()
    (axes,) = figure.axes
    low, high = axes.get_xlim()
    ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
    assert ticks
    assert all(tick == round(tick) for tick in ticks)
    low, high = axes.get_ylim()
    assert high >= rows[-1]["top1"]
    assert low > 80 if epochs == 12 else low < rows[0]["top1"]
    plots.plt.close(figure)


def test_a_plot_has_the_footnotes_of_what_it_shows(write_run, tmp_path):
    for i, lr in enumerate(("0.1", "0.2")):
        write_run(str(i), 60, 70, "--lr", lr, **DIGITS)
        file = write_run(f"erm{i}", 50, 70, "--lr", lr, "--epochs", "9", method="erm", **DIGITS) / "metrics.jsonl"
        file.write_text('{"epoch": 1, "top1": 50.0}\n')
        write_run(f"erm1{i}", 50, 70, "--lr", f"0.{i + 3}", method="erm", **DIGITS)
    figure = figure_of(tmp_path)
    assert figure.get_supxlabel().count("\n") > 1
    plots.plt.close(figure)
    for file in tmp_path.glob("erm*/metrics.jsonl"):
        file.write_text('{"epoch": 1, "top1": 50.0}\n')
    figure = figure_of(tmp_path, "pseudo_labels")
    assert figure.get_supxlabel() == "[1] lr 0.1\n[2] lr 0.2"
    plots.plt.close(figure)


def test_a_dataset_that_was_not_run_has_no_panel_beside_the_published_figures(write_run, tmp_path):
    write_run("a", 60, 70)
    write_run("b", 60, 70, dataset="DTD", method="erm")
    (table, _), name = cells(read_runs([tmp_path])), published.PRETRAININGS["supervised"]
    figure = plots.against_published_figure(name, {key: cell for key, (cell,) in table.items()})
    assert [axes.get_title() for axes in figure.axes] == ["CIFAR10", "DTD"]
    colors = [{line.get_color() for line in axes.lines} - {plots.PUBLISHED_STYLE["color"]} for axes in figure.axes]
    assert colors == [{plots.color("fixmatch")}, {plots.color("erm")}]
    plots.plt.close(figure)


def test_a_row_per_method_with_a_dot_per_seed(write_run, tmp_path):
    """The best on top, the oracle in each panel of its dataset, and a line at ERM's mean."""
    for seed, score in ((0, 60.0), (1, 70.0)):
        write_run(f"fixmatch{seed}", score, 99, "--seed", str(seed), **DIGITS)
    write_run("erm", 50, 99, method="erm", **DIGITS)
    write_run("many", 80, 99, "--num-samples-per-class", "40", **DIGITS)
    write_run("oracle", 90, 99, "--oracle", method="erm", parse_args=erm.parse_args, **DIGITS)
    table, _ = cells(read_runs([tmp_path]))
    figure = dot_plot.dot_plot_figure(table, footnotes(table))
    few, many = figure.axes
    assert [axes.get_title().rpartition("\n")[2] for axes in (few, many)] == [f"labels: {n} per class" for n in (4, 40)]
    assert [label.get_text() for label in few.get_yticklabels()] == ["erm 50.0", "fixmatch 65.0", "oracle 90.0"]
    assert [label.get_text() for label in many.get_yticklabels()] == ["fixmatch 80.0", "oracle 90.0"]
    points = [tuple(point) for drawn in few.collections for point in drawn.get_offsets()]
    assert points == [(50, 0), (60, 1), (70, 1), (65, 1), (90, 2)]
    assert [[*line.get_xdata()] for line in few.lines] == [[50, 50]]
    assert not many.lines
    assert "a dot is a seed" in few.get_xlabel()
    assert "a dot is a seed" not in many.get_xlabel()
    plots.plt.close(figure)


def test_nothing_tested_has_no_dot_plot(tmp_path):
    assert not dot_plot.draw({}, tmp_path / "none.png", {})
    assert not (tmp_path / "none.png").exists()


def test_pseudo_labels_are_drawn_where_nothing_but_the_oracle_was_tested(write_run, tmp_path):
    """FixMatch without test images, and later the oracle with some."""
    untested = write_run("fixmatch", 60, 70, **DIGITS)
    (untested / "metrics.jsonl").write_text('{"epoch": 1, "pseudo_label_accuracy": 90.0, "pseudo_label_ratio": 50.0}\n')
    change(untested, last_top1=None, best_top1=None)
    write_run("oracle", 80, 90, "--oracle", method="erm", parse_args=erm.parse_args, **DIGITS)
    assert figure_of(tmp_path, "accuracy").axes
