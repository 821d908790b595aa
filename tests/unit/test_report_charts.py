import itertools
import re

import pytest

from maskworld.report.charts import (
    BAND,
    HEIGHT,
    LABEL_GAP,
    MAX_POINTS,
    WIDTH,
    line_chart,
    nice_ticks,
)
from maskworld.report.labels import Label, is_rival, is_variant, label_of


def draw(curves, **kwargs) -> str:
    return line_chart("a chart", curves, x_label="step", y_label="dB", **kwargs)


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (19.6, 25.7, [18, 20, 22, 24, 26]),
        (-0.03, 0.02, [-0.03, -0.02, -0.01, 0, 0.01, 0.02]),
    ],
)
def test_ticks_are_round_and_enclose_the_data(low, high, ticks):
    assert nice_ticks(low, high) == pytest.approx(ticks)


def test_a_constant_curve_has_a_range_around_it():
    ticks = nice_ticks(3.0, 3.0)
    assert ticks[0] < 3 < ticks[-1]
    zero = nice_ticks(0.0, 0.0)
    assert zero[0] < 0 < zero[-1]


def test_points_lie_where_their_values_say():
    svg = draw({"model": [(0, 0.0), (1, 1.0), (2, 0.5)]})
    (path,) = re.findall(r'<path class="line c0" d="([^"]+)"', svg)
    (x0, y0), (x1, y1), (x2, y2) = (
        tuple(map(float, point)) for point in re.findall(r"[ML]([\d.]+) ([\d.]+)", path)
    )
    assert x1 == pytest.approx((x0 + x2) / 2, abs=0.1)
    assert y2 == pytest.approx((y0 + y1) / 2, abs=0.1)
    assert y1 < y0


def test_everything_drawn_stays_inside_the_picture():
    svg = draw({f"curve {i}": [(0, 5.0), (7, 5.0 + 1e-6 * i)] for i in range(8)}, whole_steps=True)
    xs = [float(x) for x in re.findall(r' (?:x|cx|x1|x2)="([\d.]+)"', svg)]
    ys = [float(y) for y in re.findall(r' (?:y|cy|y1|y2)="(-?[\d.]+)"', svg)]
    assert 0 <= min(xs) <= max(xs) <= WIDTH
    assert 0 <= min(ys) <= max(ys) <= HEIGHT


def test_names_at_the_line_ends_do_not_cover_each_other():
    svg = draw({f"curve {i}": [(0, 1.0), (7, 1.0 + 0.001 * i)] for i in range(6)})
    heights = sorted(float(y) for y in re.findall(r'class="name c\d" x="[\d.]+" y="([\d.]+)"', svg))
    assert len(heights) == 6
    assert min(b - a for a, b in itertools.pairwise(heights)) >= LABEL_GAP - 0.11


def test_an_undefined_step_leaves_a_gap():
    svg = draw({"model": [(1, 1.0), (2, 2.0), (3, None), (4, 1.0), (5, 2.0)]})
    (path,) = re.findall(r'<path class="line c0" d="([^"]+)"', svg)
    assert path.count("M") == 2


def test_long_curves_are_drawn_as_bin_means():
    svg = draw({"loss": [(i, float(i % 2)) for i in range(10 * MAX_POINTS)]})
    (path,) = re.findall(r'<path class="line c0" d="([^"]+)"', svg)
    heights = set(re.findall(r"[ML][\d.]+ ([\d.]+)", path))
    assert path.count("L") < MAX_POINTS
    assert len(heights) == 1  # every bin's mean is one half


def test_curves_without_a_finite_point_are_refused():
    for points in ([(0, float("nan"))], [(0, None)], []):
        with pytest.raises(ValueError, match="finite points"):
            draw({"model": points})


def test_values_are_written_with_their_unit_and_a_real_minus():
    assert label_of("psnr").format(22.514) == "22.51\u00a0dB"
    assert label_of("style/autumn").format(0.9749) == "97.5\u00a0%"
    assert Label("x", digits=1).format(-0.25) == "−0.2"
    assert Label("x", digits=1).format(-0.01) == "0.0"
    assert Label("x").format(None) == "–"


def test_unknown_metrics_are_called_by_their_key():
    assert label_of("lane_changes/missed").title == "Lane changes, missed"


def test_ceilings_and_variants_are_no_baselines_to_beat():
    assert is_rival("copy_last")
    assert not is_rival("reconstruction")
    assert not is_rival("best_trivial")
    assert not is_rival("model_argmax")
    assert is_variant("model_argmax")


def test_the_band_lies_under_the_curves_without_a_name_and_the_first_curve_on_top():
    svg = draw(
        {"model": [(0, 1.0), (1, 2.0)], "copy": [(0, 1.0), (1, 1.5)], "top": [(0, 1.0), (1, 1.5)]},
        looks={"top": BAND},
    )
    assert re.findall(r'class="line (\w+)"', svg) == [BAND, "c1", "c0"]
    assert ">copy</text>" in svg
    assert ">top</text>" not in svg
