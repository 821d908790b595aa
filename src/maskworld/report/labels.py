"""How metrics are called and written for a reader."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Label:
    """A readable name, what it means, and how its values are written."""

    title: str
    meaning: str = ""
    unit: str = ""
    digits: int = 2
    is_share: bool = False
    """Written in per cent."""

    def format(self, value: int | float | None, unit: bool = True) -> str:
        """The value as a reader wants it, e.g. "22.51 dB" or "94.0 %"."""
        if value is None:
            return "–"
        suffix = "\u00a0%" if self.is_share else f"\u00a0{self.unit}" if self.unit else ""
        number = f"{100 * value if self.is_share else value:.{self.digits}f}"
        if float(number) == 0:
            number = number.lstrip("-")
        return number.replace("-", "−") + (suffix if unit else "")


_LABELS = {
    "psnr": Label("PSNR", "mean over frames, pixels against the real future", "dB"),
    "loss": Label("Loss"),
    "cross_entropy": Label("Cross-entropy of hidden tokens", unit="nats"),
    "accuracy": Label("Accuracy on hidden tokens", digits=1, is_share=True),
    "l1": Label("Absolute error of reconstructed pixels"),
    "ssim": Label("SSIM", "structural similarity to the real future", digits=3),
    "token_accuracy": Label("Token accuracy", "all future tokens", digits=1, is_share=True),
    "changed_token_accuracy": Label(
        "Changed-token accuracy",
        "tokens that differ from the last given frame; copying scores 0",
        digits=1,
        is_share=True,
    ),
    "bits_per_token": Label("Bits per token", "code length of the real future", "bits"),
    "codebook_use": Label("Codebook use", "codes that occur at all", digits=1, is_share=True),
    "codebook_perplexity": Label("Codebook perplexity", "equally frequent codes", digits=0),
    "frechet_proxy": Label("Fréchet proxy", "dreams as a set against other real clips; not FVD"),
    "pdms": Label("PDM score", "NAVSIM v1.1, non-reactive", "", 1, True),
    "nc": Label("No collision at fault", "", "", 1, True),
    "dac": Label("Drivable area kept", "", "", 1, True),
    "ttc": Label("Time to collision kept", "", "", 1, True),
    "comfort": Label("Comfort", "", "", 1, True),
    "ep": Label("Ego progress", "", "", 1, True),
}
_FAMILIES = {
    "pdms": Label("PDM score", "of the scenes of one kind", "", 1, True),
    "pdms_gain": Label("PDM score gained", "paired, over the same scenes", "", 1, True),
    "nc_gain": Label("No collision, gained", "paired, over the same scenes", "", 1, True),
    "dac_gain": Label("Drivable area, gained", "paired, over the same scenes", "", 1, True),
    "psnr_sampled": Label("PSNR of sampled dreams", "gamma of self-guidance", "dB"),
    "planner_displacement": Label("Displacement", "from the expert's waypoints", "m"),
    "closed_loop": Label("Closed loop", "driven among traffic that reacts", "", 3),
    "psnr": Label("PSNR", "mean over frames, pixels against the real future", "dB"),
    "bits_per_token": Label("Bits per token", "cross-entropy of hidden tokens", "bits"),
    "masked_cross_entropy": Label("Masked cross-entropy", "share of tokens hidden", "bits"),
    "action_sensitivity": Label(
        "Action sensitivity",
        "loss added by wrong actions (nats, or squared velocity); 0 = ignored",
        "",
        3,
    ),
    "steering": Label("Steering", "far field moves the way of the turn", digits=1, is_share=True),
    "own_future": Label(
        "Own future",
        "dream nearer to its own real future than to the other; 50\u00a0% = chance",
        digits=1,
        is_share=True,
    ),
    "style": Label("Style", "asked style given, by a classifier of real clips", "", 1, True),
    "stylization": Label(
        "Stylization", "share of other clips that fit worse; 50\u00a0% = unrelated", "", 1, True
    ),
    "seconds_per_clip": Label("Time per clip", "wall clock on this machine", "s", 3),
    "success": Label("Success", "episodes", "", 1, True),
}

NAMES = {"no_world_model": "no world model", "bc": "behaviour cloning", "pdm_closed": "PDM-Closed"}
"""Baselines whose name is more than its words."""

REFERENCES = frozenset(
    {
        "expert",
        "judge_on_real_clips",
        "oracle",
        "pdm_closed",
        "perplexity_over_vocabulary",
        "published",
        "real",
        "real_renders",
        "real_vs_real",
        "reconstruction",
        "tokenizer",
        "true_motion",
    }
)
"""Values beside the model that it need not beat: ceilings, real renders, other people's numbers."""
BEST_TRIVIAL = "best_trivial"
"""The curve of the best baseline at each step: no baseline of its own."""


def is_variant(key: str) -> bool:
    """True for the model itself in another way, e.g. `model_argmax`."""
    return key.startswith("model_")


def is_rival(key: str) -> bool:
    """True for a baseline to beat, False for a ceiling or a variant of the model."""
    return key not in REFERENCES and key != BEST_TRIVIAL and not is_variant(key)


def label_of(metric: str) -> Label:
    """The label of a metric; unknown ones are called by their key."""
    if metric in _LABELS:
        return _LABELS[metric]
    family, _, member = metric.partition("/")
    if member and family in _FAMILIES:
        known = _FAMILIES[family]
        title = f"{known.title}, {words(member.replace('/', ', '))}"
        return Label(title, known.meaning, known.unit, known.digits, known.is_share)
    return Label(words(metric.replace("/", ", ")).capitalize(), digits=3)


def words(key: str) -> str:
    """`copy_last` as "copy last"."""
    return NAMES.get(key, key.replace("_", " "))
