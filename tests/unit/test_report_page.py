import base64
import re
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from maskworld.evaluation.results import Results
from maskworld.report import VideoRow, write_report
from maskworld.report.frames import GAP, encode_rows, encode_sheet

LINK = re.compile(r"(?:https?:)?//\w|\b(?:src|href|action|poster)=(?![\"']data:)|@import|url\(")


def clip(t: int = 12, h: int = 16, w: int = 24, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (t, h, w, 3), dtype=np.uint8)


def row(name: str = "Clip 1", section: str = "Dreams", **panels: np.ndarray) -> VideoRow:
    panels = panels or {"real": clip(), "reconstructed": clip(seed=1), "dreamt": clip(seed=2)}
    return VideoRow(name, panels, "autumn dusk", num_context=2, section=section)


def results() -> dict:
    built = Results("worlddreamer", {"num_clips": 200, "decoding": {"steps": 6}})
    built.add(
        "psnr",
        model=22.8,
        interval=(22.4, 23.2),
        n=200,
        better="higher",
        baselines={"copy_last": 20.6, "mean_image": 21.4, "tokenizer": 25.5},
        per_horizon={
            "copy_last": [23.2, 21.4],
            "model": [23.9, 23.3],
            "mean_image": [21.5, 21.4],
            "tokenizer": [25.7, 25.6],
        },
    )
    built.add(
        "bits_per_token",
        model=6.5,
        interval=(6.3, 6.7),
        n=9,
        better="lower",
        baselines={"copy_last": 6.2},
    )
    built.add("style/autumn", model=0.97, interval=(0.92, 0.99), n=100, better="higher")
    return built.to_dict()


def page(tmp_path, **changes) -> str:
    arguments = {
        "title": "Dreams",
        "results": results(),
        "videos": [row()],
        "curves": {"loss/train": [(0, 3.0), (10, 2.0)], "loss/held_out": [(0, 3.1), (10, 2.2)]},
        "notes": ["A note."],
    }
    write_report(tmp_path / "report.html", **{**arguments, **changes})
    return (tmp_path / "report.html").read_text(encoding="utf-8")


class Balance(HTMLParser):
    """Collects tags that are not closed, and all attributes."""

    VOID = ("meta", "img", "input", "br", "link", "line", "circle", "path")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict]] = []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


def parsed(html: str) -> Balance:
    parser = Balance()
    parser.feed(html)
    parser.close()
    return parser


def test_the_page_requests_nothing_from_anywhere(tmp_path):
    html = page(tmp_path)
    without_images = re.sub(r"data:image/webp;base64,[A-Za-z0-9+/=]+", "data:", html)
    assert LINK.findall(without_images) == []
    assert "default-src 'none'" in html
    assert LINK.search('<img src="a.png">')
    assert LINK.search('<script src="//cdn/x.js">')


def test_every_tag_is_closed_and_no_placeholder_is_left(tmp_path):
    html = page(tmp_path)
    assert parsed(html).open == []
    assert "{{" not in html


def test_every_frame_in_the_page_is_the_frame_that_was_given(tmp_path):
    """Decodes the sheets as the player does and compares pixels."""
    given = row()
    images = [attrs for tag, attrs in parsed(page(tmp_path, videos=[given])).seen if tag == "img"]
    assert [image["data-name"] for image in images] == list(given.panels)
    for image, frames in zip(images, given.panels.values()):
        data = base64.b64decode(image["src"].partition("base64,")[2])
        sheet = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
        w, h, columns = (int(image[f"data-{key}"]) for key in ("width", "height", "columns"))
        for index, frame in enumerate(frames):
            top, left = index // columns * (h + GAP), index % columns * (w + GAP)
            np.testing.assert_array_equal(sheet[top : top + h, left : left + w], frame)


def test_curves_of_one_quantity_share_a_chart_and_others_do_not(tmp_path):
    line = [(0, 1.0), (1, 2.0)]
    names = ["loss/train", "loss/held_out", "loss/cross_entropy", "loss/accuracy"]
    html = page(tmp_path, curves=dict.fromkeys(names, line))
    charts = html.partition('id="training"')[2].partition("</section>")[0]
    assert re.findall(r"<figcaption><b>([^<]+)", charts) == [
        "Loss",
        "Cross-entropy of hidden tokens",
        "Accuracy on hidden tokens",
    ]
    assert re.findall(r'class="name c\d"[^>]*>([^<]+)', charts) == ["held out", "train"]


def test_every_picture_is_described(tmp_path):
    seen = parsed(page(tmp_path)).seen
    assert all(attrs["alt"] for tag, attrs in seen if tag == "img")
    charts = [attrs for tag, attrs in seen if tag == "svg" and attrs.get("role") == "img"]
    assert len(charts) == 2
    assert all(attrs["aria-label"] for attrs in charts)
    dreamt = next(attrs for tag, attrs in seen if tag == "img" and "data-dreamt" in attrs)
    assert "12 frames, 2 given, then dreamt" in dreamt["alt"]


def test_sections_keep_their_order_and_share_a_player(tmp_path):
    rows = [row("A"), row("B", "Styles"), row("C")]
    html = page(tmp_path, videos=rows)
    assert html.count('<section class="player">') == 2
    assert html.index("<b>A</b>") < html.index("<b>C</b>") < html.index("<b>B</b>")


def test_text_from_outside_is_escaped_and_is_no_template(tmp_path):
    evil = '</script><script>alert("x")</script> {{style}}'
    html = page(
        tmp_path,
        title=evil,
        summary=evil,
        notes=[evil],
        videos=[VideoRow(evil, {evil: clip()}, evil, section=evil)],
        curves={evil: [(0, 1.0), (1, 2.0)]},
    )
    assert "<script>alert" not in html
    assert html.count("<script>") == 1
    assert html.count("{{style}}") >= 4
    assert parsed(html).open == []


def test_the_verdict_is_against_the_best_baseline_and_never_a_ceiling(tmp_path):
    html = page(tmp_path)
    assert re.search(r'value better">22\.80\sdB', html)
    assert "against 21.40, mean image" in html
    assert re.search(r'value worse">6\.50\sbits', html)
    assert re.search(r'value ">97\.0\s%', html)


def test_the_best_baseline_of_the_table_is_marked(tmp_path):
    html = page(tmp_path)
    assert '<span class="baseline strongest"><span>mean image</span> 21.40</span>' in html
    assert '<span class="baseline"><span>tokenizer</span> 25.50</span>' in html


def test_a_report_of_numbers_alone_has_no_empty_sections(tmp_path):
    html = page(tmp_path, videos=[], curves={}, notes=[])
    assert 'class="player"' not in html
    assert "Training" not in html
    assert "Frames are stored" not in html


def test_the_same_run_gives_the_same_page(tmp_path):
    assert page(tmp_path) == page(tmp_path)


def test_results_outside_the_schema_leave_the_old_report(tmp_path):
    before = page(tmp_path)
    broken = results()
    broken["metrics"]["psnr"]["model"] = float("nan")
    with pytest.raises(ValueError, match="metrics/psnr/model"):
        page(tmp_path, results=broken)
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == before
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_clips_over_the_budget_are_stored_with_loss_and_the_page_says_so(tmp_path):
    assert "stored without loss" in page(tmp_path)
    html = page(tmp_path, max_video_bytes=12_000)
    assert re.search(r"stored as WebP of quality \d+", html)
    lossless, quality = encode_rows([row()], 10**9)
    assert quality is None
    lossy, quality = encode_rows([row()], 1)
    assert quality == 65
    assert len(lossy[0]["real"].webp) < len(lossless[0]["real"].webp)


def test_twelve_rows_stay_below_fifteen_megabytes_even_of_noise(tmp_path):
    rows = [
        VideoRow(str(i), {"real": clip(10, 64, 96, i), "dreamt": clip(10, 64, 96, 50 + i)})
        for i in range(12)
    ]
    assert len(page(tmp_path, videos=rows).encode()) < 15e6


@pytest.mark.parametrize(
    ("panels", "message"),
    [
        ({}, "panels of frames"),
        ({"real": clip(0)}, "not empty"),
        ({"real": clip(), "dreamt": clip(5)}, "one length"),
    ],
)
def test_rows_that_cannot_be_shown_side_by_side_are_refused(panels, message):
    with pytest.raises(ValueError, match=message):
        VideoRow("Clip 1", panels)


def test_a_row_needs_a_frame_rate_and_a_sheet_has_a_largest_size():
    with pytest.raises(ValueError, match="fps"):
        VideoRow("Clip 1", {"real": clip()}, fps=0.0)
    with pytest.raises(ValueError, match="at most 16383"):
        encode_sheet(np.zeros((2, 1, 9000, 3), dtype=np.uint8))
