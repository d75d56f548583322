"""起步模型的分词器、结构与起点；训练见 `pretrain_starters.py`。"""
