"""Published encoders whose weights the user brings: their architecture and the names of their tensors.

Names and settings are those that the authors' code states: USFM github.com/openmedlab/USFM (``vision_transformer.py``,
``configs/model/Cls/vit.yaml``), TinyUSFM github.com/MacDunno/TinyUSFM (``model/tinyusfm_seg.py``,
``utils/load_model_seg.py``), FetalCLIP github.com/BioMedIA-MBZUAI/FetalCLIP (``FetalCLIP_config.json``; names of
open_clip), USF-MAE github.com/Yusufii9/USF-MAE (``USF-MAE_pretraining.ipynb``; names of facebookresearch/mae).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from meddap_monai.encoders.networks import Builder
from meddap_monai.encoders.transformer import FAMILIES, Family, State, builder, converted

_TIMM = (
    (r"^cls_token$", "embeddings.cls_token"),
    (r"^pos_embed$", "embeddings.position_embeddings"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
    (r"^norm\.", "layernorm."),
    (r"^rel_pos_bias\.", "encoder.relative_position_bias."),
    (r"^blocks\.(\d+)\.norm1\.", r"encoder.layer.\1.layernorm_before."),
    (r"^blocks\.(\d+)\.norm2\.", r"encoder.layer.\1.layernorm_after."),
    (r"^blocks\.(\d+)\.gamma_", r"encoder.layer.\1.lambda_"),
    (r"^blocks\.(\d+)\.attn\.q_bias", r"encoder.layer.\1.attention.attention.query.bias"),
    (r"^blocks\.(\d+)\.attn\.v_bias", r"encoder.layer.\1.attention.attention.value.bias"),
    (r"^blocks\.(\d+)\.attn\.(query|key|value)\.", r"encoder.layer.\1.attention.attention.\2."),
    (r"^blocks\.(\d+)\.attn\.proj\.", r"encoder.layer.\1.attention.output.dense."),
    (r"^blocks\.(\d+)\.mlp\.fc1\.", r"encoder.layer.\1.intermediate.dense."),
    (r"^blocks\.(\d+)\.mlp\.fc2\.", r"encoder.layer.\1.output.dense."),
)
_OPEN_CLIP = (
    (r"^class_embedding$", "vision_model.embeddings.class_embedding"),
    (r"^positional_embedding$", "vision_model.embeddings.position_embedding.weight"),
    (r"^conv1\.", "vision_model.embeddings.patch_embedding."),
    (r"^ln_pre\.", "vision_model.pre_layrnorm."),
    (r"^ln_post\.", "vision_model.post_layernorm."),
    (r"^transformer\.resblocks\.(\d+)\.ln_", r"vision_model.encoder.layers.\1.layer_norm"),
    (r"^transformer\.resblocks\.(\d+)\.attn\.(query|key|value)\.", r"vision_model.encoder.layers.\1.self_attn.\2."),
    (r"^transformer\.resblocks\.(\d+)\.attn\.out_proj\.", r"vision_model.encoder.layers.\1.self_attn.out_proj."),
    (r"^transformer\.resblocks\.(\d+)\.mlp\.c_fc\.", r"vision_model.encoder.layers.\1.mlp.fc1."),
    (r"^transformer\.resblocks\.(\d+)\.mlp\.c_proj\.", r"vision_model.encoder.layers.\1.mlp.fc2."),
    (r"\.self_attn\.query\.", ".self_attn.q_proj."),
    (r"\.self_attn\.key\.", ".self_attn.k_proj."),
    (r"\.self_attn\.value\.", ".self_attn.v_proj."),
)


@dataclass(frozen=True)
class Published:
    """An architecture and how its published tensors are named.

    Attributes:
        family: class of transformers that takes them.
        config: name of its configuration class.
        settings: of the configuration.
        names: patterns of published names -> names of the hub.
        prefix: that all published names have; others are left out, such as those of a text encoder.
        initial: tensors that the authors' classifier starts with and does not read from the file: name -> value.
    """

    family: Family
    config: str
    settings: Mapping[str, Any]
    names: tuple[tuple[str, str], ...] = _TIMM
    prefix: str = ""
    initial: Mapping[str, float] = field(default_factory=dict)

    @property
    def build(self) -> Builder:
        """The builder at random weights."""
        return builder(self.family, self.configuration)

    def configuration(self) -> Any:
        """Return the configuration of transformers."""
        import transformers

        return getattr(transformers, self.config)(**self.settings)

    def rename(self, state: Mapping[str, torch.Tensor]) -> State:
        """Return published tensors under the names of `build`'s network; those of such a network as they are.

        Raises:
            ConfigurationError: tensors are missing, or have another shape.
        """
        if any(name.startswith("vision.") for name in state):
            return dict(state)
        found: State = {}
        for name, tensor in state.items():
            if name.startswith(self.prefix):
                found |= self._renamed(name.removeprefix(self.prefix), tensor)
        width = self.settings["hidden_size"]
        found |= {name: torch.full((width,), value) for name, value in self.initial.items()}
        return converted(self.family, self.configuration(), found)

    def _renamed(self, name: str, tensor: torch.Tensor) -> State:
        together = re.fullmatch(r"(.*\.attn\.)(?:qkv\.|in_proj_)(weight|bias)", name)
        if together:
            parts = zip(("query", "key", "value"), tensor.chunk(3), strict=True)
            return {self._hub(f"{together[1]}{part}.{together[2]}"): one.clone() for part, one in parts}
        if name == "proj":  # of open_clip: a matrix that features are multiplied by from the left
            return {"visual_projection.weight": tensor.T.contiguous()}
        return {self._hub(name): tensor}

    def _hub(self, name: str) -> str:
        for pattern, own in self.names:
            name = re.sub(pattern, own, name)
        return name


_B16 = {"image_size": 224, "patch_size": 16, "layer_norm_eps": 1e-6}
USFM = Published(
    Family("BeitModel"),
    "BeitConfig",
    _B16
    | {
        "hidden_size": 768,
        "use_shared_relative_position_bias": True,
        "use_mean_pooling": True,
        "layer_scale_init_value": 0.1,
        "drop_path_rate": 0.0,
    },
    initial={"pooler.layernorm.weight": 1.0, "pooler.layernorm.bias": 0.0},
)
"""Mean of the patches, then a layer norm that starts at the identity, as in the authors' classifier."""
TINYUSFM = Published(
    FAMILIES["vit"],
    "ViTConfig",
    _B16 | {"hidden_size": 192, "num_attention_heads": 12, "intermediate_size": 768},
    prefix="model.",
)
FETALCLIP = Published(
    Family("CLIPVisionModelWithProjection", "image_embeds"),
    "CLIPVisionConfig",
    {
        "image_size": 224,
        "patch_size": 14,
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "projection_dim": 768,
        "hidden_act": "gelu",
    },
    _OPEN_CLIP,
    "visual.",
)
"""Its projected features, as in the authors' probes."""
USF_MAE = Published(FAMILIES["vit_mae"], "ViTConfig", _B16 | {"hidden_size": 768})
BIOMEDCLIP = Published(FAMILIES["vit"], "ViTConfig", _B16 | {"hidden_size": 768}, prefix="visual.trunk.")
"""The features of its image tower (open_clip around timm), before their projection to those of texts."""
