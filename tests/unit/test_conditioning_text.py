"""Claims about maskworld.conditioning.text."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from maskworld.conditioning.text import (
    SmallTextConfig,
    SmallTextEncoder,
    T5TextConfig,
    T5TextEncoder,
    word_buckets,
)


def encoder() -> SmallTextEncoder:
    torch.manual_seed(0)
    return SmallTextEncoder(SmallTextConfig(num_buckets=500, dim=8, max_words=6, num_heads=2))


def test_words_ignore_case_and_punctuation_and_never_hit_the_padding() -> None:
    assert word_buckets("Autumn dusk, turning LEFT!", 500) == word_buckets(
        "autumn dusk turning left", 500
    )
    assert min(word_buckets(" ".join(map(str, range(5000))), 7)) == 1
    assert max(word_buckets(" ".join(map(str, range(5000))), 7)) == 6


def test_buckets_are_the_same_on_every_machine() -> None:
    # CRC-32 of the word, not Python's hash, which differs between processes.
    assert word_buckets("autumn night", 4096) == [3363, 3402]


def test_padding_changes_no_embedding() -> None:
    model = encoder()
    alone, real = model(["night"])
    together, mask = model(["night", "a long rainy day"])
    torch.testing.assert_close(together[0, :1], alone[0])
    assert real.tolist() == [[True]]
    assert mask.tolist() == [[True, False, False, False], [True] * 4]


def test_word_order_matters() -> None:
    model = encoder()
    one, two = model(["left then right"])[0], model(["right then left"])[0]
    assert not torch.allclose(one.sum(1), two.sum(1))


def test_an_empty_text_has_no_words_and_finite_values() -> None:
    embedded, real = encoder()(["", " ,! ", "night"])
    assert real.any(dim=1).tolist() == [False, False, True]
    assert embedded.isfinite().all()
    alone, none = encoder()([""])
    assert alone.shape == (1, 1, 8)
    assert not none.any()


def test_long_texts_are_cut() -> None:
    embedded, real = encoder()(["one two three four five six seven eight"])
    assert embedded.shape == (1, 6, 8)
    assert real.all()


@pytest.fixture(scope="module")
def tiny_t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights in the published layout, with a word-level tokenizer."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

    folder = tmp_path_factory.mktemp("t5")
    words = {"<pad>": 0, "</s>": 1, "<unk>": 2, "autumn": 3, "night": 4, "left": 5}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = T5Config(vocab_size=6, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
    T5EncoderModel(config).save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_t5_embeds_words_and_masks_padding(tiny_t5: Path) -> None:
    model = T5TextEncoder(T5TextConfig(path=str(tiny_t5), dim=16))
    assert list(model.parameters()) == [], "frozen, and not saved with the system"
    together, real = model(["autumn night left", "night", ""])
    alone, _ = model(["night"])
    assert real.sum(dim=1).tolist() == [3, 1, 0]
    torch.testing.assert_close(together[1, :1], alone[0], atol=1e-5, rtol=1e-5)
    assert not together.requires_grad


@pytest.mark.slow
def test_t5_of_another_width_or_missing_is_refused(tiny_t5: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="dim=16"):
        T5TextEncoder(T5TextConfig(path=str(tiny_t5), dim=32))(["night"])
    with pytest.raises(ValueError, match="T5 weights"):
        T5TextEncoder(T5TextConfig(path=str(tmp_path / "none"), dim=16))(["night"])
