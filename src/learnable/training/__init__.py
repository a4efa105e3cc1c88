"""Fine-tuning by any objective with PEFT, and the reference models that learnability compares with."""

from learnable.training.adapters import save_whole as save_whole
from learnable.training.copies import Base as Base
from learnable.training.copies import copies_of as copies_of
from learnable.training.epochs import KeptEpoch as KeptEpoch
from learnable.training.fine_tuning import MIXTURE as MIXTURE
from learnable.training.fine_tuning import Trained as Trained
from learnable.training.fine_tuning import fine_tune as fine_tune
from learnable.training.merging import merge_copies as merge_copies
from learnable.training.reference import Part as Part
from learnable.training.reference import References as References
from learnable.training.reference import read_reference as read_reference
from learnable.training.samplers import Sampler as Sampler
from learnable.training.summed_gradients import gradient_sums as gradient_sums
