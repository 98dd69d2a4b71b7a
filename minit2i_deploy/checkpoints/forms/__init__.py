"""The forms a checkpoint comes in. A new form is a file here and a line in ``FORMS``."""

from __future__ import annotations

from typing import Final

from minit2i_deploy.checkpoints.form import Form
from minit2i_deploy.checkpoints.forms.auto_model import AutoModelForm
from minit2i_deploy.checkpoints.forms.flax import MsgpackForm, OrbaxForm
from minit2i_deploy.checkpoints.forms.huggingface import HuggingFaceForm
from minit2i_deploy.checkpoints.forms.looped_folder import LoopedFolderForm
from minit2i_deploy.checkpoints.forms.single_file import SingleFileForm
from minit2i_deploy.checkpoints.forms.torch_save import TorchSaveForm
from minit2i_deploy.checkpoints.forms.training import TrainingForm

# In this order; the first whose ``sniff`` matches reads the path.
FORMS: Final[tuple[Form, ...]] = (
    OrbaxForm(),
    TrainingForm(),
    SingleFileForm(),
    LoopedFolderForm(),
    AutoModelForm(),
    HuggingFaceForm(),
    TorchSaveForm(),
    MsgpackForm(),
)
