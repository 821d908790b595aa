"""What a video metric was computed on and how: stored with every number, compared before numbers.

Two FVDs of one paper's model differ by more than a factor of two between 16 and 25 frames; the
number of clips, the resizing and the condition frames move it too. So a number without its protocol
says nothing, and numbers of different protocols are not compared.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

Selection = Literal["first", "last", "even"]


@dataclass(frozen=True)
class VideoProtocol:
    """Everything that moves a distance between two sets of clips.

    Sizes are height and width of the decoded frames, before the network's own resizing.
    """

    metric: str
    """ "fvd", "fid", "kvd", "frechet_proxy", "lpips", ..."""
    backend: str
    """Network and preprocessing, e.g. "i3d-tats"; "" where the metric has no network."""
    weights_sha256: str
    """Of the file of weights; "" where there are none."""
    resize: str
    """How frames come to the network's size."""
    num_frames: int
    """Of a clip, condition frames counted, before `includes_condition_frames` drops them."""
    frame_stride: int
    """1 = every frame of the video."""
    selection: Selection
    """Which frames of a longer video: its first ones, its last, or evenly over all of it."""
    fps: float | None
    """Frames per second of the videos, before the stride; None where not known."""
    condition_frames: int
    """Frames at the start of a clip that the model was given."""
    includes_condition_frames: bool
    """Whether these are scored as well."""
    real_size: tuple[int, int]
    dreamt_size: tuple[int, int]
    num_real: int
    """Clips."""
    num_dreamt: int
    sampled_frames: int
    """Frames drawn at random from all clips of a side; 0 = all."""
    clips_sha256: str
    """Of the list of real clips: names, first frames and the files' own hashes."""
    covariance: str = "n - 1"
    """What scatters are divided by."""
    preset: str = ""
    """Where the settings come from; not compared, since what it set is."""

    def __post_init__(self) -> None:
        if self.num_frames < 1 or self.frame_stride < 1:
            raise ValueError(
                f"Expected at least 1 frame and a stride of at least 1, found {self.num_frames} "
                f"and {self.frame_stride}."
            )
        if not 0 <= self.condition_frames < self.num_frames:
            raise ValueError(
                f"Expected fewer condition frames than the {self.num_frames} frames of a clip, "
                f"found {self.condition_frames}."
            )

    @property
    def num_scored(self) -> int:
        """Frames of a clip that are scored."""
        left_out = 0 if self.includes_condition_frames else self.condition_frames
        return self.num_frames - left_out

    def to_dict(self) -> dict[str, Any]:
        """As it is written to JSON."""
        content: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return content

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> VideoProtocol:
        """What `to_dict` made.

        Raises:
            ValueError: missing or unknown fields.
        """
        names = {field.name for field in fields(cls)}
        if set(content) != names:
            raise ValueError(
                f"Expected the fields {sorted(names)} in a protocol, found missing "
                f"{sorted(names - set(content))} and unknown {sorted(set(content) - names)}: "
                "compute the number again with this version."
            )
        sizes = {key: tuple(content[key]) for key in ("real_size", "dreamt_size")}
        return cls(**{**content, **sizes})

    def differences(self, other: VideoProtocol) -> dict[str, tuple[Any, Any]]:
        """Fields that are not the same, with both values."""
        ours, theirs = self.to_dict(), other.to_dict()
        return {
            name: (ours[name], theirs[name])
            for name in ours
            if name != "preset" and ours[name] != theirs[name]
        }

    def of(self, metric: str) -> VideoProtocol:
        """The same for another metric on the same features."""
        return replace(self, metric=metric)


def check_comparable(first: VideoProtocol, second: VideoProtocol) -> None:
    """Raises ValueError that names every field in which two protocols differ."""
    found = first.differences(second)
    if found:
        listed = "; ".join(f"{name}: {a!r} and {b!r}" for name, (a, b) in found.items())
        raise ValueError(
            f"Expected two numbers of one protocol, found different {listed}. Such numbers mean "
            "different things: compute both with the settings of one."
        )


@dataclass(frozen=True)
class Preset:
    """The settings of a published evaluation, as far as they are known.

    None = not stated anywhere we know: the user must say it. `ours` names the fields where the
    source is silent and the value is our reading.
    """

    name: str
    source: str
    num_clips: int
    num_frames: int | None
    fps: float | None
    condition_frames: int | None
    fvd_includes_condition: bool = True
    fid_includes_condition: bool = True
    fid_frames: int = 0
    """Frames drawn at random for FID; 0 = all."""
    selection: Selection = "first"
    fvd_backend: str = "i3d-tats"
    fid_backend: str = "inception-torchmetrics"
    allows_few: bool = False
    """Fewer clips than FVD has dimensions, since the paper has."""
    ours: tuple[str, ...] = ()


PRESETS = (
    Preset(
        "vista-5369",
        "Vista: nuScenes val, FVD code after LVDM, FID by torchmetrics without the condition frame",
        num_clips=5369,
        num_frames=25,
        fps=10.0,
        condition_frames=1,
        fid_includes_condition=False,
        ours=("fvd_includes_condition",),
    ),
    Preset(
        "epona-1646",
        "Epona: nuScenes val, clips sampled at intervals",
        num_clips=1646,
        num_frames=None,
        fps=None,
        condition_frames=None,
        ours=(
            "fvd_includes_condition",
            "fid_includes_condition",
            "fvd_backend",
            "fid_backend",
            "selection",
        ),
    ),
    Preset(
        "opendwm",
        "OpenDWM: nuScenes val, 150 scenes x 6 views, the first 16 of 19 frames",
        num_clips=900,
        num_frames=16,
        fps=10.0,
        condition_frames=None,
        ours=("fvd_includes_condition", "fid_includes_condition"),
    ),
    Preset(
        "drivewm-900",
        "Drive-WM, and MaskGWM's six cameras: nuScenes val, 150 scenes x 6 views",
        num_clips=900,
        num_frames=None,
        fps=None,
        condition_frames=None,
        fid_frames=10_000,
        ours=(
            "fvd_includes_condition",
            "fid_includes_condition",
            "fvd_backend",
            "fid_backend",
            "selection",
        ),
    ),
    Preset(
        "waymo-600",
        "MaskGWM: Waymo, zero-shot, no action; 15 000 frames for FID",
        num_clips=600,
        num_frames=25,  # 15 000 frames of 600 videos; so FID counts the condition frame
        fps=None,
        condition_frames=1,
        ours=("num_frames", "fvd_includes_condition", "fvd_backend", "fid_backend"),
    ),
    Preset(
        "maskgwm-long-300",
        "MaskGWM: 300 random videos of OpenDV-2K val, no action, 25 frames of the long rollout",
        num_clips=300,
        num_frames=25,
        fps=None,
        condition_frames=3,
        selection="even",
        allows_few=True,
        ours=(
            "selection",
            "fvd_includes_condition",
            "fid_includes_condition",
            "fvd_backend",
            "fid_backend",
        ),
    ),
)


def find_preset(name: str) -> Preset:
    """The preset of that name.

    Raises:
        ValueError: no such preset; suggests the nearest.
    """
    names = [preset.name for preset in PRESETS]
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"Expected a preset among {', '.join(names)}, found {name!r}.{hint}")
    return PRESETS[names.index(name)]
