"""A Blenderbot of a few hundred kilobytes with random weights, made on first use, so that `chat` runs offline.

Called by a replica's constructor, possibly by several at once: each builds into a directory of its own, and the first
rename wins. The vocabulary is byte-level: the 256 bytes, no merges, and the special tokens.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path

TINY_BLENDERBOT = "tiny-blenderbot"
LAYOUT = 1
SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<unk>", "<mask>")


def locate(model: str) -> str:
    """Where `from_pretrained` finds the model: the name itself, except for the tiny one."""
    return str(_built()) if model == TINY_BLENDERBOT else model


def _built() -> Path:
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    target = base / "serve-rt" / f"{TINY_BLENDERBOT}-{LAYOUT}"
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    staged = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        build(staged)
        staged.rename(target)
    except OSError:
        if not target.is_dir():  # another replica may have been first
            raise
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return target


def build(folder: Path) -> None:
    """Write the tokenizer and the model as `save_pretrained` does."""
    vocabulary = _write_vocabulary(folder)
    letters = {*"abcdefghijklmnopqrstuvwxyz.,!?", "Ġ", "</s>"}
    unreadable = [index for token, index in vocabulary.items() if token not in letters]
    _write_model(folder, len(vocabulary), unreadable)


def _write_vocabulary(folder: Path) -> dict[str, int]:
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import BlenderbotTokenizer

    tokens = [*SPECIAL_TOKENS, *sorted(ByteLevel.alphabet())]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    BlenderbotTokenizer.from_pretrained(str(folder)).save_pretrained(str(folder))
    return vocabulary


def _write_model(folder: Path, vocab_size: int, unreadable: list[int]) -> None:
    import torch
    from transformers import BlenderbotConfig, BlenderbotForConditionalGeneration

    config = BlenderbotConfig(
        vocab_size=vocab_size,
        d_model=64,
        encoder_layers=1,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=128,
        decoder_ffn_dim=128,
        max_position_embeddings=160,
        init_std=0.6,  # wide: random weights near zero would answer every input alike
        dropout=0.0,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
        forced_eos_token_id=2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(400)  # the same nonsense on every machine
        model = BlenderbotForConditionalGeneration(config)
    model.generation_config.suppress_tokens = unreadable
    model.generation_config.min_new_tokens = 12
    model.save_pretrained(str(folder))
