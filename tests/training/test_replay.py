"""回放：掺进去的比例、账上的数目、与领域不同的噪声。"""

import json

import pytest

from companion.objectives.masked_lm import MaskedLMCollator
from companion.training import train


@pytest.fixture
def general(tmp_path):
    """五十篇短的通用文字。"""
    path = tmp_path / "通用.txt"
    texts = [f"今天已经星期日了，我们在长城脚下读历史{n}。" for n in range(50)]
    path.write_text("\n\n".join(texts), encoding="utf-8")
    return path


def test_replay_is_written_into_the_ledger(tmp_path, configure, general, no_curve):
    """两轮、三成回放：账上回放的词元占训练的三成左右，语料的账不受影响。"""
    options = {"max_steps": -1, "num_train_epochs": 2, "save_steps": 500}
    alone = train(configure(tmp_path / "无", **options), quiet=True)
    mixed = train(
        configure(tmp_path / "有", replay=str(general), replay_ratio=0.3, **options),
        quiet=True,
    )
    ledger = json.loads((mixed.output / "ledger.json").read_text(encoding="utf-8"))
    assert ledger["replayed"] / ledger["trained"] == pytest.approx(0.3, abs=0.03)
    assert ledger["epochs"] == pytest.approx(2)
    assert mixed.ledger.tokens_in == alone.ledger.tokens_in
    assert mixed.ledger.trained > alone.ledger.trained
    plain = json.loads((alone.output / "ledger.json").read_text(encoding="utf-8"))
    assert plain["replayed"] == 0


def test_replayed_rows_have_numbers_of_their_own(
    tmp_path, configure, general, monkeypatch, no_curve
):
    """同一轮里没有两行的编号相同：回放与领域的噪声互不相同。"""
    real, seen = MaskedLMCollator.__call__, []

    def watch(self, features):
        seen.extend(
            (f["epoch"], f["example_id"], len(f["input_ids"])) for f in features
        )
        return real(self, features)

    monkeypatch.setattr(MaskedLMCollator, "__call__", watch)
    train(
        configure(tmp_path / "有", replay=str(general), replay_ratio=0.4, max_steps=-1,
                  num_train_epochs=1),
        quiet=True,
    )  # fmt: skip
    keys = [(epoch, row) for epoch, row, _ in seen if epoch == 0]
    assert len(keys) == len(set(keys))
    assert len({row for _, row in keys}) == len(keys)
