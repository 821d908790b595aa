"""Contact sheets: the right frames at the right places, in the right colours."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from maskworld.data.episodes import ArrayEpisode, ListSource
from maskworld.preparation.contact_sheet import (
    CLASS_COLOURS,
    FOOTER,
    GAP,
    HEADER,
    MARGIN,
    PLOT,
    TITLE,
    class_colours,
    code_colours,
    rows_of_clips,
    rows_of_source,
    write_contact_sheet,
)
from maskworld.types import Clip

WIDTH = 40


def episode(value: int, **parts: np.ndarray) -> ArrayEpisode:
    """Frame i is red of `value` and green of 10 i."""
    frames = np.zeros((1, 9, 3, 20, 40), dtype=np.uint8)
    frames[:, :, 0] = value
    frames[:, :, 1] = 10 * np.arange(9)[None, :, None, None]
    return ArrayEpisode(frames, fps=2.0, caption="a road $x_1$", **parts)  # type: ignore[arg-type]


def read(path: Path) -> np.ndarray:
    return cv2.imread(str(path))[..., ::-1]


def test_frames_stand_in_time_from_left_to_right(tmp_path: Path) -> None:
    source = ListSource([episode(200), episode(100)], "set")
    rows = rows_of_source(source, num_rows=5, num_columns=3)
    assert [row.marks for row in rows] == [["0.0 s", "2.0 s", "4.0 s"]] * 2
    write_contact_sheet(tmp_path / "a.png", "set", "facts", rows, thumb_width=WIDTH)
    sheet = read(tmp_path / "a.png")
    for row, red in enumerate((200, 100)):
        for column, frame in enumerate((0, 4, 8)):
            y = MARGIN + HEADER + TITLE + row * (TITLE + 20 + FOOTER) + 10
            x = MARGIN + column * (WIDTH + GAP) + 20
            np.testing.assert_array_equal(sheet[y, x], [red, 10 * frame, 0])


def test_labels_are_painted_below_the_frames_in_their_colours(tmp_path: Path) -> None:
    labels = np.zeros((1, 9, 20, 40), dtype=np.uint8)
    labels[..., 20:] = 1
    rows = rows_of_source(ListSource([episode(1, labels=labels)]), num_columns=2)
    write_contact_sheet(
        tmp_path / "a.png", "set", "", rows, label_names=["sky", "road"], thumb_width=WIDTH
    )
    sheet = read(tmp_path / "a.png")
    y = MARGIN + HEADER + 22 + TITLE + 20 + GAP + 10
    np.testing.assert_array_equal(sheet[y, MARGIN + 5], CLASS_COLOURS["sky"])
    np.testing.assert_array_equal(sheet[y, MARGIN + 35], CLASS_COLOURS["road"])


def test_actions_get_a_plot_beside_the_frames(tmp_path: Path) -> None:
    actions = np.stack([np.arange(9.0), np.zeros(9)], axis=1)
    for name, source in (
        ("with", ListSource([episode(1, actions=actions)])),
        ("without", ListSource([episode(1)])),
    ):
        rows = rows_of_source(source, num_columns=9)
        write_contact_sheet(tmp_path / f"{name}.png", "set", "", rows, thumb_width=WIDTH)
    wide, narrow = read(tmp_path / "with.png"), read(tmp_path / "without.png")
    assert wide.shape[1] - narrow.shape[1] == PLOT + 3 * GAP
    assert (wide[:, -PLOT - MARGIN :].min(axis=(0, 2)) < 200).sum() > 100  # ink


def test_clips_of_a_stream_are_drawn_as_they_come() -> None:
    frames = torch.zeros(1, 6, 3, 8, 8, dtype=torch.uint8)
    video = Clip(frames=frames, caption="a road", fps=2.0, source="web", start=7)
    images = Clip(frames=frames, caption="one\ntwo", is_image=True, source="web")
    rows = rows_of_clips([video, images, video], num_rows=2, num_columns=3)
    assert len(rows) == 2
    assert (rows[0].title, rows[1].caption) == ("web · from frame 7 · 2 Hz", "one | two")
    assert rows[1].marks == ["image 0", "image 1", "image 2"]


def test_a_set_of_images_fills_the_rows(tmp_path: Path) -> None:
    sizes = [(20, 40), (40, 40), (10, 60), (20, 40), (20, 40)]
    images = [
        ArrayEpisode(np.full((1, 1, 3, *size), 50 * i, dtype=np.uint8), caption=f"image {i}")
        for i, size in enumerate(sizes)
    ]
    rows = rows_of_source(ListSource(images), num_rows=2, num_columns=2)
    assert [row.frames[0, :, 5, 5, 0].tolist() for row in rows] == [[0, 50], [100, 150]]
    assert [list(row.marks) for row in rows] == [["image 0", "image 1"], ["image 2", "image 3"]]
    write_contact_sheet(tmp_path / "a.png", "set", "", rows, thumb_width=WIDTH)
    assert read(tmp_path / "a.png").shape[1] > 300


def test_equal_codes_have_equal_colours_and_most_others_differ() -> None:
    tokens = np.arange(1024).reshape(1, 1, 32, 32)
    colours = code_colours(tokens, 1024)
    assert colours.shape == (1, 1, 32, 32, 3)
    np.testing.assert_array_equal(code_colours(tokens[..., ::-1], 1024), colours[..., ::-1, :])
    assert len(np.unique(colours.reshape(-1, 3), axis=0)) > 900


def test_unknown_classes_get_colours_too() -> None:
    assert class_colours(["sky", "gripper"], count=4)[0] == CLASS_COLOURS["sky"]
    assert len(set(class_colours(["sky", "gripper"], count=4))) == 4


def test_nothing_to_draw_and_other_files_are_refused(tmp_path: Path) -> None:
    rows = rows_of_source(ListSource([episode(1)]))
    with pytest.raises(ValueError, match="Expected rows"):
        write_contact_sheet(tmp_path / "a.png", "set", "", [])
    with pytest.raises(ValueError, match=r"a \.png to write"):
        write_contact_sheet(tmp_path / "a.jpg", "set", "", rows)
    with pytest.raises(ValueError, match="has 1 episodes, asked for number 1"):
        rows_of_source(ListSource([episode(1)]), first=1)
    assert list(tmp_path.iterdir()) == []
