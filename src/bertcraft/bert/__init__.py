"""The encoder and its checkpoints: BERT, RoBERTa, ELECTRA, DistilBERT, ALBERT, MPNet and DeBERTa."""

from bertcraft.bert.config import Config
from bertcraft.bert.encoder import Sockets, encode
from bertcraft.bert.initialise import initial_params
from bertcraft.bert.model import Model, Output, load

__all__ = ["Config", "Model", "Output", "Sockets", "encode", "initial_params", "load"]
