"""The shipped model as a folder: its tokenizer, its shape, and how both are written."""

from __future__ import annotations

import json
import string
from collections.abc import Iterable
from pathlib import Path
from typing import cast

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from models.formats import CONTEXTS, PHRASES
from preceptor_trainer.recipe import Context
from preceptor_trainer.recipes.purified_opsd import ReferenceAlone

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def pieces(parts: Iterable[Context]) -> list[str]:
    """What stands around the content in the templates of these contexts; what a writer reads is no part of it."""
    templates = [
        value
        for part in parts
        for name, value in part
        if name.endswith("template") and not name.startswith(("ask", "blind")) and isinstance(value, str)
    ]
    return [text for template in templates for text, *_ in string.Formatter().parse(template) if text]


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Bytes, and one token per phrase: any text goes in and comes out unchanged."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={char: index for index, char in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL])
    phrases = dict.fromkeys((*PHRASES, *pieces(CONTEXTS.values()), ReferenceAlone().before, ReferenceAlone().after))
    core.add_tokens([AddedToken(text, special=False, normalized=False) for text in phrases])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
        model_max_length=1024,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Writes it under the class name that every transformers knows; version 5 would write a name of its own."""
    tokenizer.save_pretrained(folder)
    file = folder / "tokenizer_config.json"
    config = json.loads(file.read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    config.pop("backend", None)
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def make_model(tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """Fresh weights. A head of 32 is the smallest that common inference engines take."""
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=128,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=32,
            intermediate_size=384,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            eos_token_id=cast(int, tokenizer.eos_token_id),
            pad_token_id=cast(int, tokenizer.pad_token_id),
            bos_token_id=None,
        )
    )


def save(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Model and tokenizer as a plain folder. It samples unless told otherwise."""
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        do_sample=True,
        temperature=1.0,
        top_k=0,
    )
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    save_tokenizer(tokenizer, folder)
