"""Textual inversion (Gal et al. 2022, arXiv 2208.01618): one new word per class, nothing else is trained.

The new word starts at the embedding of a known word and takes the place of the class's wording in the prompt.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from meddap_monai.core.constraints import here, settings
from meddap_monai.diffusion.adapting.methods.method import Common, Method
from meddap_monai.diffusion.bases.prompts import PromptTable
from meddap_monai.errors import BadBase, ConfigurationError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from meddap_monai.diffusion.adapting.trainable import Result, Trainable


@dataclass(frozen=True)
@settings("adapt#inversion")
class TextualInversion(Method):
    """Textual inversion, and what it adds to the common settings.

    Attributes:
        token: the new word of a class; ``{class}`` is replaced by the class's name.
        start: known word whose embedding the new words start from; empty takes the class's own wording.
    """

    defaults: ClassVar[Mapping[str, Any]] = {"rank": 1, "clip_skip": 0, "flip": True, "buckets": False}
    token: str = "<{class}>"
    start: str = ""

    def __post_init__(self) -> None:
        if "{class}" not in self.token:
            raise ConfigurationError(f"{here('token')}: {self.token!r} must contain {{class}}")

    def word(self, class_name: str) -> str:
        """Return the new word of a class."""
        return self.token.replace("{class}", class_name.replace(" ", "_"))

    def training_prompt(self, table: PromptTable, class_name: str, adjective: str, template: int) -> str:
        """Return the table's sentence with the new word in the place of the class."""
        return " ".join(table.templates[template].replace("{class}", self.word(class_name)).split())

    def prepare(self, pipeline: Any, common: Common, wordings: Mapping[str, str]) -> Trainable:
        """Teach the pipeline the new words and make their embeddings trainable; see `Method.prepare`.

        Raises:
            BadBase: the base has two text encoders.
        """
        import torch
        from torch import nn

        from meddap_monai.diffusion.adapters import tokens
        from meddap_monai.diffusion.adapting.trainable import Trainable

        if getattr(pipeline, "text_encoder_2", None) is not None:
            raise BadBase("textual inversion trains one text encoder, this base has two; use uslora or fulora on it")
        table = pipeline.text_encoder.get_input_embeddings().weight.data
        words = {self.word(name): self.start or wording for name, wording in wordings.items()}
        start = {word: _embedding(pipeline, source, table) for word, source in words.items()}
        numbers = tokens.add_tokens(pipeline, start, "train", "adapt#inversion")
        rows = nn.Parameter(torch.stack(list(start.values())).float().to(table.device))
        first = min(numbers)

        def replace(_: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
            local = (inputs[0] - first).clamp(min=0)
            return torch.where((inputs[0] >= first)[..., None], rows.to(output.dtype)[local], output)

        pipeline.text_encoder.get_input_embeddings().register_forward_hook(replace)

        def result(values: Mapping[str, torch.Tensor]) -> Result:
            return {word: values["embeddings"][row].detach().cpu().clone() for row, word in enumerate(words)}

        return Trainable({"embeddings": rows}, {"embeddings": common.learning_rate}, True, result)


def _embedding(pipeline: Any, word: str, table: torch.Tensor) -> torch.Tensor:
    """Return the mean embedding of a word's pieces."""
    pieces = pipeline.tokenizer(word, add_special_tokens=False).input_ids
    return table[pieces].mean(0).clone() if pieces else table.mean(0).clone()
