"""两行位置的 GLM 的设置，并向 transformers 的 Auto 类登记。

`import companion` 之后，`AutoModelForCausalLM.from_pretrained` 就打得开这种检查点：
transformers 的 `configuration_auto` 一载入，这个文件接着载入，登记设置（见
`companion.lazy.after_import`）；第一次建起一份设置时，模型随之登记。所以 `import
companion` 本身仍不加载 transformers 与 torch。
"""

from importlib import import_module
from typing import Any

from transformers.configuration_utils import PreTrainedConfig
from transformers.models.auto.configuration_auto import AutoConfig


class TwoRowGlmConfig(PreTrainedConfig):
    """GLM 的设置（Du 等，2022，§2.2）；缺省值是 GLM-base 的大小。"""

    model_type = "glm_two_row"
    keys_to_ignore_at_inference = ("past_key_values",)

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu_new"
    """发布的代码用 tanh 近似的 GELU。"""
    max_position_embeddings: int = 512
    """两张位置表各有多少行；片段内的位置从 1 数起，0 留给 A 部分。"""
    position_rows: int = 2
    """位置有几行；整理器由此知道要给几行，不能改。"""
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-5
    use_cache: bool = True
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    tie_word_embeddings: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        import_module("companion.checkpoints.two_row_glm")  # 登记模型，只做一次


AutoConfig.register(TwoRowGlmConfig.model_type, TwoRowGlmConfig, exist_ok=True)
