"""Does a prompt's style appear, and does a stylized clip keep its layout?

The judge is a classifier fitted on real clips only; its accuracy on held-out real clips stands
beside every rate, because a judge that cannot tell the styles apart proves nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from maskworld.evaluation.results import Results
from maskworld.metrics.intervals import bootstrap_interval, success_rate
from maskworld.metrics.scores import ClipScores
from maskworld.metrics.style import StyleClassifier, layout_rank, style_features
from maskworld.types import Batch


def style_of(caption: str, styles: tuple[str, ...]) -> str | None:
    """The first of `styles` that a caption names."""
    words = caption.lower().replace(",", " ").split()
    return next((style for style in styles if style in words), None)


@dataclass(frozen=True)
class StyleJudge:
    """A classifier of real clips and how often it is right on held-out real ones."""

    classifier: StyleClassifier
    accuracy: float
    num_held_out: int

    @classmethod
    def fit(cls, train: Batch, held_out: Batch, styles: tuple[str, ...]) -> StyleJudge:
        """Fits on the training clips whose caption names a style."""
        features, labels = _labelled(train, styles)
        classifier = StyleClassifier.fit(features, labels)
        features, labels = _labelled(held_out, styles)
        predicted = classifier.predict(features)
        right = sum(p == q for p, q in zip(predicted, labels, strict=True))
        return cls(classifier, right / len(labels), len(labels))


def _labelled(batch: Batch, styles: tuple[str, ...]) -> tuple[Tensor, list[str]]:
    if batch.frames is None:
        raise ValueError("Expected frames to judge the style of, found a batch of tokens.")
    named = [style_of(caption, styles) for caption in batch.captions]
    rows = [i for i, style in enumerate(named) if style is not None]
    if not rows:
        raise ValueError(f"Expected captions that name one of {', '.join(styles)}, found none.")
    return style_features(batch.frames[rows]), [style for style in named if style is not None]


def score_generated_styles(
    results: Results,
    judge: StyleJudge,
    frames: UInt8[Tensor, "b v t c h w"],
    asked: list[str],
    task: str,
) -> None:
    """Adds "style/<task>/<style>" for every asked style: how often the judge sees it."""
    seen = judge.classifier.predict(style_features(frames))
    for style in sorted(set(asked)):
        hits = torch.tensor([s == style for s, a in zip(seen, asked, strict=True) if a == style])
        rate, interval = success_rate(hits.numpy())
        results.add(
            f"style/{task}/{style}",
            model=rate,
            interval=interval,
            n=len(hits),
            better="higher",
            baselines={
                "chance": 1 / len(judge.classifier.styles),
                "judge_on_real_clips": judge.accuracy,
            },
        )


def score_layout(
    results: Results,
    stylized: UInt8[Tensor, "b v t c h w"],
    sources: UInt8[Tensor, "b v t c h w"],
    seed: int = 0,
) -> None:
    """Adds "stylization/layout": of the other clips' sources, the share that fits a stylized clip's
    edges worse than its own source does. 1 = the layout is its own, 0.5 = any."""
    ranks = torch.stack(
        [layout_rank(stylized[:, 0, t], sources[:, 0, t]) for t in range(sources.shape[2])]
    ).mean(dim=0)
    scores = ClipScores(ranks.double().numpy()[:, None], np.ones((len(ranks), 1)))
    results.add(
        "stylization/layout",
        model=scores.mean,
        interval=bootstrap_interval(scores, np.random.default_rng(seed)),
        n=len(ranks),
        better="higher",
        baselines={"unrelated": 0.5},
    )
