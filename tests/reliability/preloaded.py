"""What all lives need, imported once: in the process that they are forked from."""

import gc
import threading

import bitsandbytes  # noqa: F401
import matplotlib.backends.backend_agg
import matplotlib.figure  # noqa: F401
import torch
import transformers.models.llama.modeling_llama  # noqa: F401
from accelerate import Accelerator  # noqa: F401
from accelerate.utils import extract_model_from_parallel
from transformers import conversion_mapping

import xtune.chat.generate
import xtune.cli.train
import xtune.model.load
import xtune.training.bad_steps
import xtune.training.held_out
import xtune.training.objectives
import xtune.training.online
import xtune.training.preference
import xtune.training.probe
import xtune.training.result
import xtune.training.train
import xtune.training.trainer  # noqa: F401

conversion_mapping.get_checkpoint_conversion_mapping("llama")
extract_model_from_parallel(torch.nn.Linear(1, 1))  # imports DeepSpeed
torch.set_num_threads(1)
gc.collect()
gc.freeze()  # what is here already is not looked through again
assert threading.active_count() == 1  # a fork takes only one thread along
