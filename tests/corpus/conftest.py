"""让本文件夹的测试能导入 tests/ 里的共用分词器（built_tokenizers）。"""

import sys
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from built_tokenizers import build


@pytest.fixture
def wordpiece() -> PreTrainedTokenizerFast:
    """一个新的、可以随意改动的 WordPiece 分词器。"""
    return build("wordpiece")
