"""Captions for clips: from key frames, by a captioner of the user's choice, merged into one."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from jaxtyping import UInt8

PROMPT = "Describe the weather, the time of day, the road and the traffic in one sentence."
"""What nuScenes captions name in WorldDreamer, section 4.1."""


@runtime_checkable
class Captioner(Protocol):
    """Says what an RGB image shows."""

    def caption(self, image: UInt8[np.ndarray, "h w 3"]) -> str: ...


Merge: TypeAlias = Callable[[Sequence[str]], str]
"""Captions of the key frames of one clip, in time, to one caption."""


def merge_captions(captions: Sequence[str]) -> str:
    """Every phrase once, in the order of its first appearance; a phrase that another one holds
    word for word is left out.

    WorldDreamer lets a language model merge them; this one is ours: it needs none, and adds
    nothing that no key frame shows.
    """
    phrases: list[str] = []
    for caption in captions:
        for phrase in re.split(r"[,;.\n]+", caption):
            words = " ".join(phrase.split())
            if words and not any(_holds(known, words) for known in phrases):
                phrases = [known for known in phrases if not _holds(words, known)] + [words]
    return ", ".join(phrases)


def _holds(phrase: str, part: str) -> bool:
    return f" {part.lower()} " in f" {phrase.lower()} "


class TransformersCaptioner:
    """An image-to-text model of transformers, from a folder or the Hub.

    Chat models (those whose processor has a chat template) are asked `prompt`; others caption
    without being asked.

    Raises:
        ValueError: no such model, or one that does not caption images.
    """

    def __init__(
        self,
        model: Path | str,
        *,
        prompt: str = PROMPT,
        max_new_tokens: int = 60,
        device: str = "cpu",
    ) -> None:
        from transformers import pipeline

        self.prompt, self.max_new_tokens = prompt, max_new_tokens
        try:
            self._pipeline: Any = pipeline("image-text-to-text", model=str(model), device=device)
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(
                f"{model} cannot be used to caption images ({error}): expected a folder or the "
                "Hub id of an image-text-to-text model of transformers, for instance "
                "Salesforce/blip-image-captioning-base."
            ) from error

    def caption(self, image: UInt8[np.ndarray, "h w 3"]) -> str:
        from PIL import Image

        picture = Image.fromarray(image)
        settings = {"generate_kwargs": {"max_new_tokens": self.max_new_tokens}}
        if getattr(self._pipeline.processor, "chat_template", None):
            content = [
                {"type": "image", "image": picture},
                {"type": "text", "text": self.prompt},
            ]
            chat = [{"role": "user", "content": content}]
            found = self._pipeline(text=chat, return_full_text=False, **settings)
        else:
            found = self._pipeline(images=picture, text="", **settings)
        text = found[0]["generated_text"]
        return " ".join(str(text).split())
