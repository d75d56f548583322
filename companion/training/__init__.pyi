from .loop import TrainingInterrupted as TrainingInterrupted
from .rehearsal import Rehearsal as Rehearsal
from .run import TrainingResult as TrainingResult
from .run import rehearse_training as rehearse_training
from .run import run_demo as run_demo
from .run import train as train
from .tuning import Tuning as Tuning
from .tuning import tune as tune
