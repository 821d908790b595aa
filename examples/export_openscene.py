"""Export OpenScene / NAVSIM logs from pickles to JSON lines, which maskworld reads.

python export_openscene.py OPENSCENE/navsim_logs/mini exported/mini

Run it in the environment in which you run NAVSIM (Python 3.8 or newer with NumPy; maskworld is not
needed): it loads the pickles, and loading a pickle runs whatever code is in it, which is why
maskworld itself never does. Load only logs that you fetched from OpenScene yourself. One line per
frame; the fields are explained in `maskworld/data/sources/openscene.py`.
"""

import json
import pickle
import sys
from pathlib import Path

COPIED = ("token", "log_name", "scene_token", "scene_name", "map_location")
VECTORS = ("ego2global_translation", "ego2global_rotation", "ego_dynamic_state")


def line_of(frame):
    """What of a frame is exported, as built-in types."""
    row = {name: str(frame[name]) for name in COPIED if frame.get(name) is not None}
    row["timestamp"] = int(frame["timestamp"])
    for name in VECTORS:
        row[name] = [float(value) for value in frame[name]]
    row["driving_command"] = [int(value) for value in frame["driving_command"]]
    row["roadblock_ids"] = [str(name) for name in frame.get("roadblock_ids", [])]
    cams = frame["cams"]
    row["cams"] = {name: {"data_path": str(cams[name]["data_path"])} for name in cams}
    return json.dumps(row, allow_nan=False)


def main(logs, out):
    paths = sorted(Path(logs).glob("*.pkl"))
    if not paths:
        raise SystemExit(f"Expected logs (*.pkl) in {logs}, found none.")
    Path(out).mkdir(parents=True, exist_ok=True)
    for path in paths:
        with path.open("rb") as file:
            frames = pickle.load(file)
        text = "".join(line_of(frame) + "\n" for frame in frames)
        part = Path(out) / f".{path.stem}.part"
        part.write_text(text, encoding="utf-8")
        part.replace(Path(out) / f"{path.stem}.jsonl")
        print(f"{path.name}: {len(frames)} frames")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    main(*sys.argv[1:])
