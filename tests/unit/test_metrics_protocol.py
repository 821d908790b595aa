"""Claims about maskworld.metrics.protocol."""

from __future__ import annotations

import dataclasses
import json

import pytest

from maskworld.metrics.fid import BACKENDS as FID_BACKENDS
from maskworld.metrics.fvd import BACKENDS as FVD_BACKENDS
from maskworld.metrics.protocol import PRESETS, VideoProtocol, check_comparable, find_preset

PROTOCOL = VideoProtocol(
    metric="fvd",
    backend="i3d-tats",
    weights_sha256="55",
    resize="bilinear",
    num_frames=25,
    frame_stride=1,
    selection="first",
    fps=10.0,
    condition_frames=1,
    includes_condition_frames=True,
    real_size=(576, 1024),
    dreamt_size=(576, 1024),
    num_real=5369,
    num_dreamt=5369,
    sampled_frames=0,
    clips_sha256="ab",
)
OTHERS = {
    "metric": "fid",
    "backend": "i3d-stylegan-v",
    "weights_sha256": "56",
    "resize": "bilinear-antialias",
    "num_frames": 16,
    "frame_stride": 2,
    "selection": "even",
    "fps": 12.0,
    "condition_frames": 3,
    "includes_condition_frames": False,
    "real_size": (288, 512),
    "dreamt_size": (288, 512),
    "num_real": 1646,
    "num_dreamt": 2048,
    "sampled_frames": 10_000,
    "clips_sha256": "cd",
    "covariance": "n",
}


def test_every_field_that_moves_a_number_is_compared_and_named() -> None:
    names = {field.name for field in dataclasses.fields(VideoProtocol)}
    assert set(OTHERS) == names - {"preset"}
    check_comparable(PROTOCOL, dataclasses.replace(PROTOCOL, preset="vista-5369"))
    for name, value in OTHERS.items():
        other = dataclasses.replace(PROTOCOL, **{name: value})
        with pytest.raises(ValueError, match=f"different {name}: "):
            check_comparable(PROTOCOL, other)
    both = dataclasses.replace(PROTOCOL, num_frames=16, clips_sha256="cd")
    with pytest.raises(ValueError, match=r"num_frames: 25 and 16; clips_sha256: 'ab' and 'cd'"):
        check_comparable(PROTOCOL, both)


def test_it_survives_json_and_strange_fields_are_refused() -> None:
    written = json.loads(json.dumps(PROTOCOL.to_dict()))
    assert VideoProtocol.from_dict(written) == PROTOCOL
    with pytest.raises(ValueError, match=r"missing \['fps'\]"):
        VideoProtocol.from_dict({key: v for key, v in written.items() if key != "fps"})


def test_condition_frames_count_in_the_length_and_may_be_left_out_of_the_score() -> None:
    assert PROTOCOL.num_scored == 25
    without = dataclasses.replace(PROTOCOL, includes_condition_frames=False)
    assert without.num_scored == 24
    with pytest.raises(ValueError, match="fewer condition frames than the 25"):
        dataclasses.replace(PROTOCOL, condition_frames=25)
    with pytest.raises(ValueError, match="stride"):
        dataclasses.replace(PROTOCOL, frame_stride=0)


def test_presets_have_the_counts_of_their_papers() -> None:
    found = {p.name: (p.num_clips, p.num_frames, p.condition_frames) for p in PRESETS}
    assert found == {
        "vista-5369": (5369, 25, 1),
        "epona-1646": (1646, None, None),
        "opendwm": (900, 16, None),
        "drivewm-900": (900, None, None),
        "waymo-600": (600, 25, 1),
        "maskgwm-long-300": (300, 25, 3),
    }
    vista, waymo = find_preset("vista-5369"), find_preset("waymo-600")
    assert vista.num_clips * (25 - 1) == 5369 * 24  # FID without the condition frame
    assert not vista.fid_includes_condition
    assert waymo.fid_includes_condition
    assert find_preset("drivewm-900").fid_frames == 10_000
    for preset in PRESETS:
        names = {field.name for field in dataclasses.fields(preset)}
        assert set(preset.ours) <= names
        assert preset.fvd_backend in {backend.name for backend in FVD_BACKENDS}
        assert preset.fid_backend in {backend.name for backend in FID_BACKENDS}
        # Only where the paper has fewer clips than FVD has dimensions.
        assert preset.allows_few == (preset.num_clips <= 400)


def test_an_unknown_preset_suggests_the_nearest() -> None:
    with pytest.raises(ValueError, match="Did you mean 'vista-5369'"):
        find_preset("vista-5639")
