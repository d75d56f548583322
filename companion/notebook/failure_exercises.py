"""笔记本 11 的练习：由症状认出病因。"""

import math

from companion.notebook.exercise import Exercise

FAILURE_EXERCISES: dict[str, Exercise] = {
    "failures-symptom": Exercise(
        right="double_shift",
        because="起步模型的因果损失本该是 5 上下，一开始就高出两奈特，又照样下降。",
        wrong=[
            ("random_head", "输出头随机时，第一步的损失在 ln V ≈ 9 附近"),
            ("wrong_tokenizer", "分词器换错时，第一步的损失比 ln V ≈ 9 还高"),
            ("high_learning_rate", "第一步还没有更新，学习率影响不到它"),
        ],
        hint="写 found 的一个键，加引号；比一比各自第一步的损失",
    ),
    "failures-accumulated": Exercise(
        right=36.0,
        because="Trainer 记下的损失是 4.5 的 8 倍，梯度也是。",
        wrong=[
            (4.5, "这是算对了的；transformers 的 Trainer 对 BERT 不是这样"),
            (0.5625, "不是除以 8，是乘以 8"),
        ],
        hint="损失与梯度都乘上累积的次数",
    ),
    "failures-guessing": Exercise(
        right=math.log(21_128),
        because="均匀乱猜，每个词元的概率是 1/V，损失是 ln V。",
        wrong=[(math.log2(21_128), "单位是奈特，用自然对数")],
        hint="瞎猜时每个词元的概率相同，损失是它的负对数",
    ),
    "failures-eos": Exercise(
        right=0,
        because="按编号遮，填充与结尾同号，结尾一个也不剩。",
        wrong=[
            (4, "那是按位置遮的结果；库按编号遮，真正的结尾也遮掉了"),
            (1, "最长的一句没有填充，它的结尾却也是同一个编号，同样遮掉了"),
        ],
        hint="库把标签里等于 pad_token_id 的全改成 −100",
    ),
    "failures-overflow": Exercise(
        right="B",
        because="bf16 的指数与 float32 同宽，上限约 3.4e38，只是尾数短。",
        wrong=[
            ("A", "损失缩放管的是梯度太小，激活太大它管不了"),
            ("C", "裁剪的是梯度，激活在前向里就溢出了"),
        ],
        hint="写 A、B、C 三个字母之一，加引号",
    ),
}
