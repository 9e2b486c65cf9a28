"""A real transformers model folder in a second: Qwen3, random weights, its own tokenizer and chat template.

`preceptor_trainer.model.load_model` and everything above it see what they would see of a downloaded model. The numbers
mean nothing; the shapes, files, masks and positions are real.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<unk>")
ALPHABET = "\n 0123456789abcdefghijklmnopqrstuvwxyz.,:?!+-*/=#'\"()<>|_ABCDEFGHIJKLMNOPQRSTUVWXYZ"
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tiny_model_folder(
    path: Path, vocab: int = 64, hidden: int = 32, layers: int = 2, seed: int = 0, **config: object
) -> Path:
    """Write a random Qwen3 model with a character tokenizer to `path` and return it.

    Weights are larger than transformers' default so that distributions differ visibly between positions and seeds.
    `config` overrides fields of the transformers config (`tie_word_embeddings=False`, `head_dim=32` ...).
    """
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    fields = {
        "vocab_size": vocab,
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": hidden // 2,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
        "initializer_range": 0.3,
        "eos_token_id": SPECIAL.index("<|im_end|>"),
        "pad_token_id": SPECIAL.index("<|endoftext|>"),
        **config,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen3ForCausalLM(Qwen3Config(**fields))
    model.save_pretrained(path)
    tiny_tokenizer(vocab).save_pretrained(path)
    return path


def tiny_tokenizer(vocab: int = 64, chat_template: str = CHAT_TEMPLATE):
    """A character tokenizer of at most `vocab` ids; characters beyond them are `<unk>`."""
    from tokenizers import AddedToken, Tokenizer, decoders
    from tokenizers import models as tokenizer_models
    from transformers import PreTrainedTokenizerFast

    ids = {token: index for index, token in enumerate([*SPECIAL, *ALPHABET][:vocab])}
    tokenizer = Tokenizer(tokenizer_models.BPE(vocab=ids, merges=[], unk_token="<unk>"))
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        unk_token="<unk>",
        chat_template=chat_template,
        model_max_length=512,
    )


def pairs_tokenizer():
    """As `tiny_tokenizer`, with other ids, and tokens for many pairs of characters: at most 512 ids."""
    from tokenizers import AddedToken, Tokenizer, decoders
    from tokenizers import models as tokenizer_models
    from transformers import PreTrainedTokenizerFast

    merges = [(a, b) for a, b in product(ALPHABET[1:38], repeat=2) if (ord(a) * 7 + ord(b)) % 4 == 0]
    pieces = [*SPECIAL, *reversed(ALPHABET), *(a + b for a, b in merges)]
    ids = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(tokenizer_models.BPE(vocab=ids, merges=merges, unk_token="<unk>"))
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=CHAT_TEMPLATE
    )
