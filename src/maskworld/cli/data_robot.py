"""`maskworld data import libero`, `import rlbench`, `masks libero` and `segment`: recordings of
robots."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

Names = tuple[str, ...]


@dataclass(frozen=True)
class RobotImport:
    """What imports of robots have in common."""

    path: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="PATH")]
    """A file or folder of demonstrations."""
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """The dataset to make."""
    cameras: Names = ()
    """Third person first, then wrist; default: both."""
    size: Annotated[tuple[int, int] | None, tyro.conf.arg(metavar="HEIGHT WIDTH")] = None
    """Height and width that frames are resized and cropped to; default: as they are."""
    codec: Literal["auto", "png", "av1", "h264", "h264-lossless"] = "auto"
    skip_bad: bool = False
    """Leave out demonstrations that cannot be read, and list them, instead of stopping."""
    resume: bool = False
    """Keep finished episodes if interrupted, and go on from them next time."""
    overwrite: bool = False
    """Replace what stands at --out, once the new dataset is complete."""


@dataclass(frozen=True)
class ImportLibero(RobotImport):
    """Import LIBERO's demonstrations (HDF5): two cameras turned upright, state, actions,
    instruction, and masks where a file of masks lies beside. Needs the package h5py.

    Examples:
      maskworld data import libero datasets/libero_goal --out libero_goal
      maskworld data import libero datasets/libero_goal --out goal --drop-noops --size 128 128
    """

    drop_noops: bool = False
    """Leave out frames whose action moves nothing."""
    timing: Literal["measured", "after", "before"] = "measured"
    """Whether a row's observation follows its action (LIBERO's own files) or precedes it
    (regenerated for OpenVLA)."""


@dataclass(frozen=True)
class ImportRlbench(RobotImport):
    """Import RLBench's saved demonstrations: cameras, joint angles, gripper poses as actions,
    instruction, and masks where mask_groups.json says which handle is what.

    Examples:
      maskworld data import rlbench demos/close_laptop_lid --out lid
      maskworld data import rlbench demos --out six-tasks --state joints+pose --size 128 128
    """

    state: Literal["joints", "pose", "joints+pose"] = "joints"
    """Proprioception: joint angles (7), gripper pose and opening (8), or both."""
    description: Literal["longest", "first"] = "longest"
    """Which of a variation's descriptions is the instruction."""


@dataclass(frozen=True)
class MasksLibero:
    """Draw masks of LIBERO's demonstrations again from their stored simulator states, and keep them
    beside each file: NAME_masks.hdf5. Files that have theirs are left as they are, so the same
    command goes on if interrupted. Needs MuJoCo and the folders of meshes and textures.

    Examples:
      maskworld data masks libero libero_goal/ --assets robosuite/models/assets libero/assets
    """

    path: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="PATH")]
    """A file of demonstrations (*.hdf5), or a suite's folder."""
    assets: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="DIR ...")]
    """Folders of meshes and textures: of robosuite and of LIBERO."""
    objects: Names = ()
    """Names of the task's objects; default: those of interest of each file's BDDL text."""
    overwrite: bool = False
    """Draw masks again that are there."""


@dataclass(frozen=True)
class Segment:
    """Make masks for recordings without, by a model of transformers, and keep them beside the data:
    PATH.masks. Finished episodes are kept if interrupted; the same command goes on.

    SAM 2 follows points of the first frame: FILE holds {"*": {"front": {"robot": [[320, 200]],
    "object": [[100, 300]]}}}, with numbers of episodes in place of "*" where they differ. Other
    models name what they see, and --classes says what that is.

    Examples:
      maskworld data segment robot/ --model facebook/sam2.1-hiera-tiny --points points.json
      maskworld data segment robot/ --model MODEL --classes robot=arm object=cup,bowl --into robots
    """

    path: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="PATH")]
    """Videos or a LeRobot dataset."""
    model: str
    """A folder or the Hub id: a SAM 2 video model, or one for image segmentation."""
    points: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """For SAM 2: what is where in the first frame."""
    classes: Annotated[Names, tyro.conf.arg(metavar="CLASS=LABEL,... ...")] = ()
    """For others: our classes and the model's labels; later classes cover earlier ones."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """The folder of the masks; default: PATH.masks."""
    into: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Also make a dataset of frames and masks together."""
    device: str = "cpu"
    skip_bad: bool = False
    """Leave out episodes that cannot be segmented, and list them, instead of stopping."""


def run_import(options: ImportLibero | ImportRlbench) -> None:
    """Imports demonstrations as the options say, and prints what was found.

    Raises:
        ValueError: as the readers do; --out exists.
    """
    from maskworld.cli.data_commands import _finish, _progress
    from maskworld.data.sources.libero import LiberoSource
    from maskworld.data.sources.rlbench import RLBenchSource
    from maskworld.preparation.conversion import ImportSettings, check_destination
    from maskworld.preparation.importing import import_source

    settings = ImportSettings(
        size=options.size,
        codec=options.codec,
        on_error="skip" if options.skip_bad else "raise",
        overwrite=options.overwrite,
        resume=options.resume,
    )
    check_destination(options.out, settings)
    source: Any
    cameras: dict[str, Any] = {"cameras": options.cameras} if options.cameras else {}
    if isinstance(options, ImportLibero):
        source = LiberoSource(
            options.path, drops_noops=options.drop_noops, timing=options.timing, **cameras
        )
    else:
        source = RLBenchSource(
            options.path, state=options.state, description=options.description, **cameras
        )
    with _progress("demonstrations") as progress:
        report = import_source(source, options.out, settings, progress=progress)
    if source.label_names is None:
        print(f"{options.path}: no masks; see docs/robot_data.md for making them")
    _finish(report)


def run_masks(options: MasksLibero) -> None:
    """Draws the masks of every file that has none.

    Raises:
        ValueError: no demonstrations, or what `render_libero_masks` cannot draw.
    """
    from maskworld.cli.data_commands import _progress
    from maskworld.data.sources.libero import MASKS_SUFFIX, masks_beside
    from maskworld.preparation.libero_masks import render_libero_masks

    single = options.path.is_file()
    found = [options.path] if single else sorted(options.path.glob("*.hdf5"))
    files = [file for file in found if not file.name.endswith(MASKS_SUFFIX)]
    if not files:
        raise ValueError(
            f"Expected LIBERO's demonstrations (*.hdf5) at {options.path}, found none: name a file "
            "or the folder of a suite."
        )
    for file in files:
        if masks_beside(file).is_file() and not options.overwrite:
            print(f"{masks_beside(file)}: there already")
            continue
        with _progress(f"demonstrations of {file.stem}") as progress:
            written = render_libero_masks(
                file,
                options.assets,
                objects=options.objects or None,
                overwrite=options.overwrite,
                progress=progress,
            )
        print(written)


def run_segment(options: Segment) -> None:
    """Makes masks as the options say, and prints what was made.

    Raises:
        ValueError: neither points nor classes, or both; as the segmenters do.
    """
    from maskworld.cli.data_commands import _finish, _progress
    from maskworld.data.sources.stored_masks import MaskedSource, masks_folder
    from maskworld.preparation.conversion import ImportSettings, check_destination
    from maskworld.preparation.importing import import_source
    from maskworld.preparation.segment import segment
    from maskworld.recipes.open import open_source

    if (options.points is None) == (not options.classes):
        raise ValueError(
            "Expected one of --points FILE, for SAM 2, and --classes CLASS=LABEL,..., for a model "
            "with labels of its own."
        )
    if options.into is not None:
        check_destination(options.into, ImportSettings())
    source: Any = open_source(options.path)
    if isinstance(source, list) or hasattr(source.episode(0), "read_tokens"):
        raise ValueError(f"{options.path}: expected videos or a LeRobot dataset to segment.")
    out = options.out or masks_folder(options.path)
    segmenter = _segmenter(options)
    try:
        with _progress("episodes") as progress:
            on_error: Literal["raise", "skip"] = "skip" if options.skip_bad else "raise"
            report = segment(source, out, segmenter, on_error=on_error, progress=progress)
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(
            "Stopped by Ctrl-C; finished episodes are kept: the same command goes on."
        ) from stop
    print(report)
    if options.into is not None:
        settings = ImportSettings(on_error="skip" if options.skip_bad else "raise")
        _finish(import_source(MaskedSource(source, out), options.into, settings))


def _segmenter(options: Segment) -> Any:
    from maskworld.preparation.segment import PipelineSegmenter, Sam2Segmenter, read_points

    if options.points is not None:
        points = read_points(options.points)
        return Sam2Segmenter(options.model, points, device=options.device)
    classes = {}
    for text in options.classes:
        name, sign, labels = text.partition("=")
        if not (name and sign and labels):
            raise ValueError(f"Expected --classes as CLASS=LABEL,LABEL, found {text!r}.")
        classes[name] = [label.strip() for label in labels.split(",")]
    return PipelineSegmenter(options.model, classes, device=options.device)
