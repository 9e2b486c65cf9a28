"""Random models of known shapes: what a forward pass costs depends on shapes alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from transformers.utils import logging


@dataclass(frozen=True)
class Shape:
    """A Llama, as its config says it."""

    name: str
    vocab: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    tied: bool = False
    positions: int = 2048

    def write(self, folder: Path) -> Path:
        """A folder that transformers and every engine reads; its tokenizer has a word for every id."""
        import torch
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers
        from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

        path = folder / self.name
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=self.vocab,
            hidden_size=self.hidden,
            intermediate_size=self.intermediate,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            max_position_embeddings=self.positions,
            tie_word_embeddings=self.tied,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
        )
        logging.disable_progress_bar()
        LlamaForCausalLM(config).save_pretrained(path)
        words = {f"w{index}": index for index in range(self.vocab)}
        tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        tokenizer.decoder = decoders.Fuse()
        fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="w0", eos_token="w1", unk_token="w0")
        fast.save_pretrained(path)
        return path


TINY = Shape("tiny-1k", vocab=1024, hidden=64, layers=2, heads=2, kv_heads=2, intermediate=128)
SMALL = Shape("small-58m", vocab=32_000, hidden=512, layers=8, heads=8, kv_heads=8, intermediate=1376)
SMOL = Shape(
    "smollm2-135m",
    vocab=49_152,
    hidden=576,
    layers=30,
    heads=9,
    kv_heads=3,
    intermediate=1536,
    tied=True,
    positions=8192,
)
"""SmolLM2-135M's shape, with random weights: nothing is downloaded."""
