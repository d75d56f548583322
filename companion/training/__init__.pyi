from .loop import TrainingInterrupted as TrainingInterrupted
from .run import TrainingResult as TrainingResult
from .run import run_demo as run_demo
from .run import train as train
